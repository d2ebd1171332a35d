//! Values in words.

use std::fmt::Debug;

/// Values that a field has when nothing was written for it.
const DEFAULTS: [&str; 7] = ["None", "0", "false", "\"\"", "b\"\"", "[]", "{}"];

/// A value's debugging form without the fields that have their default: a field added later reads as its default in
/// bytes written before, so it does not change what those bytes mean.
pub fn readable(value: &impl Debug) -> String {
    let text = format!("{value:#?}\n");
    let told = text.lines().filter(|line| {
        let value = line.trim().split_once(": ").map(|(_, value)| value);
        !value.is_some_and(|value| DEFAULTS.contains(&value.trim_end_matches(',')))
    });
    told.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    #[expect(dead_code, reason = "read by Debug")]
    struct Record {
        number: u32,
        name: String,
        more: Option<u8>,
        list: Vec<u8>,
    }

    #[test]
    fn defaults_are_left_out() {
        assert_eq!(readable(&Record::default()), "Record {\n}\n");
        let record = Record {
            number: 10,
            name: "x: 0".into(),
            more: Some(0),
            list: vec![0],
        };
        assert_eq!(
            readable(&record),
            "Record {\n    number: 10,\n    name: \"x: 0\",\n    more: Some(\n        0,\n    ),\n    list: [\n        0,\n    ],\n}\n"
        );
    }
}

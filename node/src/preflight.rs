//! `tandem check`: what this configuration needs of this host, tried without binding or changing
//! anything.

use std::{
    fmt,
    fs::{self, File},
    path::Path,
};

use crate::config::Config;

/// One thing looked at.
#[derive(Debug)]
struct Finding {
    grade: Grade,
    what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Good,
    /// The pair runs, but less well than it could.
    Warning,
    Broken,
}

/// All findings, in the order an operator would mend them.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Finding>);

impl Report {
    pub(crate) fn passed(&self) -> bool {
        self.0.iter().all(|finding| finding.grade != Grade::Broken)
    }

    fn add(&mut self, grade: Grade, what: impl Into<String>) {
        self.0.push(Finding {
            grade,
            what: what.into(),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { grade, what } in &self.0 {
            let mark = match grade {
                Grade::Good => "good   ",
                Grade::Warning => "warning",
                Grade::Broken => "broken ",
            };
            writeln!(f, "{mark}  {what}")?;
        }
        f.write_str(if self.passed() {
            "ready to run"
        } else {
            "not ready to run"
        })
    }
}

pub(crate) fn check(config: &Config) -> Report {
    let mut report = Report::default();
    check_keys(&config.pair.keys, &mut report);
    check_state(&config.state_dir, &mut report);
    check_clock(&mut report);
    if let Some(border) = &config.border {
        check_interface(&border.floating.interface, &mut report);
        check_capabilities(&mut report);
    }
    report
}

fn check_keys(keys: &Path, report: &mut Report) {
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        let path = keys.join(name);
        match File::open(&path) {
            Ok(_) => report.add(Grade::Good, format!("{} is readable", path.display())),
            Err(error) => report.add(
                Grade::Broken,
                format!(
                    "{}: {error}; `tandem init` makes the keys of a pair",
                    path.display()
                ),
            ),
        }
    }
}

fn check_state(state_dir: &Path, report: &mut Report) {
    let shown = state_dir.display();
    match fs::metadata(state_dir) {
        Ok(metadata) if metadata.is_dir() => {
            match nix::unistd::access(state_dir, nix::unistd::AccessFlags::W_OK) {
                Ok(()) => report.add(Grade::Good, format!("{shown} is writable")),
                Err(error) => {
                    report.add(Grade::Broken, format!("{shown} is not writable: {error}"))
                }
            }
        }
        Ok(_) => report.add(Grade::Broken, format!("{shown} is not a directory")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.add(
                Grade::Good,
                format!("{shown} will be created at the first start"),
            );
        }
        Err(error) => report.add(Grade::Broken, format!("{shown}: {error}")),
    }
}

/// kvm-clock stops while a virtual machine is stopped, so a lease would look valid after a pause; tsc
/// does not.
fn check_clock(report: &mut Report) {
    const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match fs::read_to_string(CLOCKSOURCE) {
        Ok(source) if source.trim() == "tsc" => report.add(Grade::Good, "the clock source is tsc"),
        Ok(source) => report.add(
            Grade::Warning,
            format!(
                "the clock source is {}: a paused virtual machine may not notice the pause; boot with \
                 clocksource=tsc",
                source.trim()
            ),
        ),
        Err(error) => report.add(Grade::Warning, format!("{CLOCKSOURCE}: {error}")),
    }
}

fn check_interface(interface: &str, report: &mut Report) {
    if Path::new("/sys/class/net").join(interface).exists() {
        report.add(Grade::Good, format!("interface {interface} exists"));
    } else {
        report.add(
            Grade::Broken,
            format!("floating.interface: there is no interface {interface:?}"),
        );
    }
}

/// CAP_NET_ADMIN adds the floating address; CAP_NET_RAW announces it.
fn check_capabilities(report: &mut Report) {
    const NEEDED: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13)];
    let effective = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        });
    for (name, bit) in NEEDED {
        match effective {
            Some(set) if set & (1 << bit) != 0 => {
                report.add(Grade::Good, format!("{name} is held"))
            }
            Some(_) => report.add(
                Grade::Broken,
                format!("{name} is not held: run as root or grant it in the unit file"),
            ),
            None => report.add(
                Grade::Warning,
                format!("{name}: /proc/self/status is unreadable"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_keys_and_interfaces_are_named() {
        let mut report = Report::default();
        check_keys(Path::new("/nonexistent/keys"), &mut report);
        check_interface("no-such-interface", &mut report);
        let text = report.to_string();
        assert!(!report.passed());
        assert!(text.contains("/nonexistent/keys/ca.pem"), "{text}");
        assert!(text.contains("\"no-such-interface\""), "{text}");
        assert!(text.ends_with("not ready to run"), "{text}");
    }
}

//! The command line as an operator meets it: exit codes, and errors that name what and where.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn tandem(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn witness(directory: &Path, admin: &str) -> String {
    let state = directory.join("state");
    format!(
        "[node]\nslot = \"witness\"\nstate_dir = {state:?}\n[pair]\nkeys = {keys:?}\n\
         a = \"127.0.0.1:1\"\nb = \"127.0.0.1:2\"\nwitness = \"127.0.0.1:3\"\n\
         [admin]\nlisten = \"{admin}\"\n",
        keys = directory.join("keys/witness"),
    )
}

#[test]
fn a_bad_configuration_exits_64_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tandem.toml");
    fs::write(&file, witness(directory.path(), "nowhere")).unwrap();
    for command in ["run", "check"] {
        let output = tandem(&[command, "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
        let wanted = format!(
            "{}:10: admin.listen: \"nowhere\" is not an address",
            file.display()
        );
        assert!(stderr(&output).contains(&wanted), "{}", stderr(&output));
    }
    assert!(
        !directory.path().join("state").exists(),
        "nothing was created"
    );
}

#[test]
fn a_missing_configuration_is_named() {
    let output = tandem(&["run", "--config", "/nonexistent/tandem.toml"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("/nonexistent/tandem.toml: cannot be read"));
}

#[test]
fn keys_are_made_once_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    let init = || tandem(&["init", "--pair", "office", "--out", keys.to_str().unwrap()]);
    assert!(init().status.success());
    for slot in ["a", "b", "witness"] {
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            assert!(keys.join(slot).join(name).is_file(), "{slot}/{name}");
        }
    }
    let before = fs::read(keys.join("a/key.pem")).unwrap();
    let again = init();
    assert_eq!(again.status.code(), Some(1));
    assert!(
        stderr(&again).contains(keys.to_str().unwrap()),
        "{}",
        stderr(&again)
    );
    assert_eq!(fs::read(keys.join("a/key.pem")).unwrap(), before);

    let file = directory.path().join("tandem.toml");
    fs::write(&file, witness(directory.path(), "127.0.0.1:4")).unwrap();
    let check = tandem(&["check", "--config", file.to_str().unwrap()]);
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
}

#[test]
fn a_check_without_keys_says_which_and_how_to_make_them() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tandem.toml");
    fs::write(&file, witness(directory.path(), "127.0.0.1:4")).unwrap();
    let output = tandem(&["check", "--config", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("keys/witness/cert.pem") && text.contains("tandem init"),
        "{text}"
    );
}

#[test]
fn a_status_that_nobody_gives_is_an_error() {
    // Port 1 on loopback: nothing listens there.
    let output = tandem(&["status", "--admin", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no node answers at 127.0.0.1:1"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_store_is_moved_aside_only_when_it_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tandem.toml");
    fs::write(&file, witness(directory.path(), "127.0.0.1:4")).unwrap();
    let state = directory.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("birth"), "whatever it says").unwrap();
    let rejoin =
        |more: &[&str]| tandem(&[&["rejoin", "--config", file.to_str().unwrap()], more].concat());

    let asked = rejoin(&[]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(
        stderr(&asked).contains("repeat with --yes"),
        "{}",
        stderr(&asked)
    );
    assert!(state.join("birth").is_file());

    let done = rejoin(&["--yes"]);
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(!state.join("birth").exists() && state.join("retired-1/birth").is_file());
    let again = rejoin(&["--yes"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("there is no store"));
}

//! Help, completions and manual pages.

use std::fs;

use tests::process::{run, tool};

use super::Place;

/// Every command, found through the help itself.
fn walk(place: &Place, path: &[String], seen: &mut Vec<String>) {
    let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
    let help = place.ok(&args);
    assert!(
        help.contains("Examples:") && help.contains("  as2gate "),
        "{path:?} teaches no example:\n{help}"
    );
    seen.push(path.join(" "));
    let commands = help.split("Commands:\n").nth(1).unwrap_or_default();
    for line in commands.lines().take_while(|line| line.starts_with("  ")) {
        let name = line.split_whitespace().next().unwrap_or_default();
        let is_name = line.starts_with("  ") && !line.starts_with("   ") && name != "help" && !name.is_empty();
        if is_name {
            walk(place, &[path, &[name.to_owned()]].concat(), seen);
        }
    }
}

#[test]
fn every_command_teaches_by_example() {
    let mut seen = Vec::new();
    walk(&Place::new(), &[], &mut seen);
    for command in [
        "init",
        "serve",
        "partner test",
        "cert schedule",
        "user key rotate",
        "message follow",
        "lifecycle restore",
        "inspect",
        "apply",
    ] {
        assert!(seen.iter().any(|found| found == command), "{command} is missing: {seen:?}");
    }
    assert!(seen.len() > 50, "{seen:?}");
}

#[test]
fn what_is_asked_without_a_terminal_stands_beside_the_answer() {
    for command in [
        &["partner", "rm", "--help"][..],
        &["user", "rm", "-h"],
        &["partner", "set", "--help"],
    ] {
        let help = Place::new().ok(command);
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("--yes Answer yes to every question. Without a terminal rm and the like ask nothing"),
            "{help}"
        );
    }
}

#[test]
fn completions_are_scripts() {
    let place = Place::new();
    let script = place.ok(&["completions", "bash"]);
    let file = place.path("completions.bash");
    fs::write(&file, script).unwrap();
    let _ = run(&mut tool("bash", &["-n", file.to_str().unwrap()])).ok();
}

#[test]
fn manual_pages_tell_what_help_tells() {
    let place = Place::new();
    let page = place.ok(&["man"]);
    assert!(page.contains(".TH as2gate 1") && page.contains("as2gate\\-partner(1)"), "{page}");
    fs::create_dir(place.path("man1")).unwrap();
    assert!(place.ok(&["man", "--out", "man1", "-n"]).contains("would write the manual pages"));
    assert_eq!(fs::read_dir(place.path("man1")).unwrap().count(), 0, "a dry run writes nothing");
    assert!(place.ok(&["man", "--out", "man1"]).contains("begin with as2gate.1"));
    let page = fs::read_to_string(place.path("man1/as2gate-partner-add.1")).unwrap();
    let help = place.ok(&["partner", "add", "--help"]);
    assert!(page.contains("from\\-station") && help.contains("--from-station"), "{page}");
    let words = place.cli(&["man", "--out", "none"]).fails(3);
    assert!(words.contains("it is no directory"), "{words}");
}

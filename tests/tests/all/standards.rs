//! The map of standards: what it names is there.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file below a directory, but for what the build makes.
fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                sources(&path, into);
            }
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            into.push(path);
        }
    }
}

/// The cells of the table rows of a page.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    lines
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn each_file_and_test_named_in_the_map_of_standards_is_there() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let all: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let page = fs::read_to_string(root().join("RFCS.md")).unwrap();
    let (mut wrong, mut tests) = (Vec::new(), 0);
    for row in rows(&page).iter().filter(|row| row[0] != "section" && row[0] != "document") {
        assert_eq!(row.len(), 5, "five columns: {row:?}");
        for file in quoted(&row[2]) {
            if !root().join(file).is_file() {
                wrong.push(format!("{}: no file {file}", row[0]));
            }
        }
        for test in quoted(&row[4]) {
            tests += 1;
            if !all.contains(&format!("#[test]\n    fn {test}()")) && !all.contains(&format!("#[test]\nfn {test}()")) {
                wrong.push(format!("{}: no test {test}", row[0]));
            }
        }
        let is_done = row[3].starts_with("done") || row[3].starts_with("on receipt");
        if is_done && quoted(&row[4]).is_empty() && row[0] != "3" {
            wrong.push(format!("{}: done, and no test says so", row[0]));
        }
    }
    assert!(wrong.is_empty(), "RFCS.md:\n{}", wrong.join("\n"));
    assert!(tests > 60, "{tests} tests found: is the page still a table?");
}

//! The maps of standards, of the code and of advisories: what they name is there.

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

/// What the page names and the tree holds.
struct Tree {
    text: String,
    /// The cases of the hostile SSH client, and what is before their lists.
    hostile: (String, String),
    wrong: Vec<String>,
}

impl Tree {
    fn read() -> Self {
        let mut files = Vec::new();
        sources(&root(), &mut files);
        let hostile = fs::read_to_string(root().join("tests/python/hostile_ssh.py")).unwrap();
        let (before, cases) = hostile.split_once("\nCASES = [").expect("the list of cases");
        Tree {
            text: files.iter().map(|path| fs::read_to_string(path).unwrap()).collect(),
            hostile: (cases.to_owned(), before.to_owned()),
            wrong: Vec::new(),
        }
    }

    fn has_files(&mut self, row: &str, cell: &str) {
        for file in quoted(cell) {
            if !root().join(file).is_file() {
                self.wrong.push(format!("{row}: no file {file}"));
            }
        }
    }

    /// How many tests the cell names.
    fn has_tests(&mut self, row: &str, cell: &str) -> usize {
        let named = quoted(cell);
        for test in &named {
            let starts = ["fn", "async fn"].map(|start| format!("{start} {test}()"));
            // Between the attribute and the function there may stand others, such as why it runs alone.
            let is_test = starts.iter().any(|start| {
                self.text.match_indices(start.as_str()).any(|(at, _)| {
                    let before = self.text[..at].trim_end_matches(' ');
                    let attributes = before.rsplit("\n\n").next().unwrap_or_default();
                    before.ends_with("]\n") && (attributes.contains("#[test]") || attributes.contains("#[tokio::test"))
                })
            });
            let (cases, before) = &self.hostile;
            let is_case = cases.contains(&format!("{test},")) && before.contains(&format!("\ndef {test}():"));
            if !is_test && !is_case {
                self.wrong.push(format!("{row}: no test {test}"));
            }
        }
        named.len()
    }

    #[track_caller]
    fn assert_right(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// The rows of the page's tables: those of the standards, and those of the negative list.
fn tables() -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let page = fs::read_to_string(root().join("RFCS.md")).unwrap();
    let (standards, refused) = page.split_once("## What must be refused").expect("the negative list");
    let (standards, refused) = (rows(standards), rows(refused));
    for row in standards.iter().chain(&refused) {
        assert_eq!(row.len(), 5, "five columns: {row:?}");
    }
    (standards, refused)
}

#[test]
fn each_file_and_test_named_in_the_map_of_standards_is_there() {
    let (mut tree, mut tests) = (Tree::read(), 0);
    for row in tables().0.iter().filter(|row| row[0] != "section" && row[0] != "document") {
        tree.has_files(&row[0], &row[2]);
        tests += tree.has_tests(&row[0], &row[4]);
        let is_done = row[3].starts_with("done") || row[3].starts_with("on receipt");
        if is_done && quoted(&row[4]).is_empty() && row[0] != "3" {
            tree.wrong.push(format!("{}: done, and no test says so", row[0]));
        }
    }
    tree.assert_right();
    assert!(tests > 60, "{tests} tests found: is the page still a table?");
}

#[test]
fn each_file_named_in_the_map_of_the_code_is_there() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let files: Vec<&str> = quoted(&page).into_iter().filter(|word| word.ends_with(".rs")).collect();
    assert!(files.len() > 20, "{files:?}");
    // The page leaves out the paths of the two places that it speaks of most.
    for file in files {
        let is_there = |base: &str| root().join(base).join(file).is_file();
        assert!(
            ["", "gateway/src", "sftp-front/russh/src"].into_iter().any(is_there),
            "no file {file}"
        );
    }
}

/// `COMPAT(libas2)`, `COMPAT(Drummond 3Q07-8)`, `COMPAT(as2-lib #95)`: each product has its row, and each report is named in it.
#[test]
fn each_product_that_the_code_tolerates_has_its_row() {
    let page = fs::read_to_string(root().join("COMPATIBILITY.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
    let tree = Tree::read();
    let marks = tree
        .text
        .split(concat!("// ", "COMPAT("))
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap());
    let products: Vec<&str> = marks.flat_map(|mark| mark.split(", ")).collect();
    assert!(products.len() > 10, "{products:?}");
    for product in products {
        let words: Vec<&str> = product.split([' ', '#']).filter(|word| !word.is_empty()).collect();
        assert!(
            rows.iter().any(|row| words.iter().all(|word| row.contains(word))),
            "no row for {product}"
        );
    }
}

#[test]
fn every_case_of_the_negative_list_has_its_test() {
    let (mut tree, mut cases) = (Tree::read(), Vec::new());
    for row in tables().1.iter().filter(|row| row[0] != "case") {
        tree.has_files(&row[0], &row[3]);
        if tree.has_tests(&row[0], &row[4]) == 0 {
            tree.wrong.push(format!("{}: no test", row[0]));
        }
        cases.push(row[0].clone());
    }
    tree.assert_right();
    let wanted = (1..=20).map(|n| format!("X{n}")).chain((1..=26).map(|n| format!("S{n}")));
    assert_eq!(cases, wanted.collect::<Vec<_>>());
}

/// The rooms of the gateway, by the groups of its `lib.rs`: how far out each lies.
fn rooms() -> Vec<(String, usize)> {
    let lib = fs::read_to_string(root().join("gateway/src/lib.rs")).unwrap();
    let groups = ["// Vocabulary.", "// Backends.", "// Flows.", "// Doors."];
    let (mut level, mut rooms) = (0, Vec::new());
    for line in lib.lines() {
        if let Some(group) = groups.iter().position(|group| *group == line) {
            level = group;
        } else if let Some((_, room)) = line.strip_suffix(';').and_then(|line| line.split_once("mod ")) {
            rooms.push((room.to_owned(), level));
        }
    }
    rooms
}

/// What a source names of the crate's rooms, but for its tests: `crate::journal::Tx`, `use crate::{inbox, outbox}`.
fn named_rooms(source: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let places = code.split("crate::").skip(1);
    places
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list
                .split('}')
                .next()
                .unwrap_or_default()
                .split(',')
                .map(|name| word(name.trim()))
                .collect(),
            None => vec![word(rest)],
        })
        .collect()
}

/// Arrows go doors → flows → backends → vocabulary; `gateway.rs` wires them, and hands its `Core` to doors and flows.
#[test]
fn each_room_uses_what_lies_further_in() {
    // The HTTP door is written like a library: the inbox implements its traits, as `sftp_tree` those of `sftp-front`.
    const ALLOWED: [(&str, &str); 1] = [("inbox", "http")];
    let rooms = rooms();
    let level = |name: &str| match name {
        "gateway" => Some(2),
        name => rooms.iter().find(|(room, _)| room == name).map(|(_, level)| *level),
    };
    let base = root().join("gateway/src");
    let mut files = Vec::new();
    sources(&base, &mut files);
    let (mut arrows, mut wrong) = (0, Vec::new());
    for file in files {
        let below = file.strip_prefix(&base).unwrap();
        let room = below.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
        let is_test = below
            .iter()
            .any(|part| part.to_string_lossy().trim_end_matches(".rs").ends_with("tests"));
        if is_test || ["gateway", "main", "lib"].contains(&room.as_str()) {
            continue;
        }
        let own = level(&room).unwrap_or_else(|| panic!("lib.rs does not name {room}"));
        for named in named_rooms(&fs::read_to_string(&file).unwrap()) {
            arrows += 1;
            if level(&named).is_some_and(|other| other > own) && !ALLOWED.contains(&(room.as_str(), named.as_str())) {
                wrong.push(format!("{} uses {named}", below.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(arrows > 500, "{arrows} arrows found");
}

#[test]
fn each_advisory_has_a_test_that_names_it() {
    let page = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let (mut tree, mut ids) = (Tree::read(), 0);
    for row in rows(&page).iter().filter(|row| row[0] != "advisory") {
        assert_eq!(row.len(), 4, "four columns: {row:?}");
        if tree.has_tests(&row[0], &row[3]) == 0 {
            tree.wrong.push(format!("{}: no test", row[0]));
        }
        let named = row[0]
            .split([' ', ','])
            .filter(|word| ["CVE-", "GHSA-", "RUSTSEC-"].iter().any(|kind| word.starts_with(kind)));
        for id in named {
            ids += 1;
            if !tree.text.contains(id) && !tree.hostile.1.contains(id) {
                tree.wrong.push(format!("{}: no test says {id}", row[0]));
            }
        }
    }
    tree.assert_right();
    assert!(ids > 30, "{ids} advisories found: is the page still a table?");
}

/// xz CVE-2024-3094: what is built is what was looked at. russh CVE-2026-46673: and is not older than its advisories. `rsa`
/// RUSTSEC-2023-0071: what tells a private key by its time is only there where signatures are verified.
#[test]
fn every_dependency_is_pinned_and_new_enough() {
    const OURS: [&str; 7] = ["as2-core", "as2-fused", "gateway", "keystore", "russh", "sftp-front", "tests"];
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let packages: Vec<&str> = lock.split("[[package]]").skip(1).collect();
    let field = |package: &str, name: &str| {
        let start = format!("{name} = \"");
        let line = package
            .lines()
            .find_map(|line| line.strip_prefix(&start).map(|rest| rest.trim_end_matches('"')));
        line.unwrap_or_default().to_owned()
    };
    let mut of_rsa = Vec::new();
    for package in &packages {
        let (name, source, checksum) = (field(package, "name"), field(package, "source"), field(package, "checksum"));
        if source.is_empty() {
            assert!(OURS.contains(&name.as_str()), "{name} comes from nowhere");
        } else {
            assert!(
                source.starts_with("registry+") && checksum.len() == 64,
                "{name} from {source}: {checksum}"
            );
        }
        assert!(!["liblzma", "lzma-sys", "xz2", "russh-sftp"].contains(&name.as_str()), "{name}");
        if package.lines().any(|line| line.trim().trim_end_matches(',') == "\"rsa\"") {
            of_rsa.push(name);
        }
    }
    assert_eq!(of_rsa, ["russh", "ssh-key"]);
    let signing = fs::read_to_string(root().join("sftp-front/russh/src/helpers.rs")).unwrap();
    assert!(
        signing.contains("crate::keys::rsa_signature::sign(rsa_keypair, hash, data)"),
        "who signs with RSA?"
    );
    for (name, least) in [("russh", [0, 65, 1]), ("russh-cryptovec", [0, 60, 3])] {
        let package = packages.iter().find(|package| field(package, "name") == name).expect(name);
        let version = field(package, "version");
        let numbers: Vec<u32> = version.split('.').map(|number| number.parse().unwrap()).collect();
        assert!(numbers.as_slice() >= &least[..], "{name} {version}");
    }
    // And in each build: neither another source nor a version that may be any.
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    for rule in [
        "unknown-registry = \"deny\"",
        "unknown-git = \"deny\"",
        "wildcards = \"deny\"",
        "{ crate = \"rsa\", wrappers =",
    ] {
        assert!(deny.contains(rule), "deny.toml without {rule}");
    }
}

//! `zip = "unpack"`: every archive ends in one clear outcome, all of its files or one error (RFC 6362; security.md §7).

use std::time::Duration;

use tests::Pair;
use tests::peer::script;
use tests::process::{run, tool};

/// Archives that go out, and what arrives beside their first file.
const GOOD: &[(&str, &[&str])] = &[
    ("plain", &["a.txt", "empty.txt"]),
    ("stored", &["a.bin"]),
    ("directories", &["a.txt", "a~2.txt"]),
    ("paths", &["back.txt", "root.txt", "up.txt", "win.txt"]),
    ("zero", &["name.txt"]),
    ("equal", &["a.txt", "a~2.txt"]),
    ("unicode", &["käse.txt"]),
    ("cp437", &["käse.txt"]),
    ("descriptors", &["a.txt"]),
    ("garbage", &["a.txt"]),
    ("nested", &["inner.zip"]),
    ("one", &[]),
    ("commented", &["a.txt"]),
    ("zip64", &["a.txt"]),
    ("infozip", &[]),
];

/// Archives that do not, and a word of the reason.
const BAD: &[(&str, &str)] = &[
    ("no-zip", "cannot be unpacked"),
    ("empty", "it holds 0 entries"),
    ("only-directories", "it holds no files"),
    ("truncated", "cannot be unpacked"),
    ("headless", "cannot be unpacked"),
    ("too-many", "it holds 1001 entries, 1 to 1000 can be sent"),
    ("link", "link.txt is a symbolic link"),
    ("secret", "is encrypted"),
    ("bzip2", "is compressed by Bzip2"),
    ("crc", "a.bin: Invalid checksum"),
    ("longer", "cannot be unpacked"),
    ("shorter", "cannot be unpacked"),
    ("count", "more entries than its end says"),
    ("filled-directory", "d/ is a directory with contents"),
    ("bomb", "over 200 times its size"),
    ("shared", "on top of each other"),
    ("sector", "zip64 end record is too far"),
    ("crowd", "it holds 800000 entries"),
];

/// What the server may need above what it has needed, whatever the archive.
const ALLOWED: u64 = 64 << 20;

#[test]
fn every_zip_is_sent_whole_or_fails_with_a_reason() {
    let pair = Pair::two_gateways();
    let alice = pair.alice();
    alice.change(&["partner", "set", "BOB", "--zip", "unpack"]);
    let zips = alice.path("zips");
    let _ = run(&mut tool("python3", &[script("zips.py").to_str().unwrap(), zips.to_str().unwrap()])).ok();
    let put = |name: &str| {
        let file = format!("{name}.zip");
        pair.alice_user.put(&zips.join(&file), &format!("AS2/send/ALICE/BOB/{file}"));
        file
    };
    for (name, others) in GOOD {
        let sent = alice.reaches("out", &put(name), "delivered");
        assert!(sent["mdn_disposition"].as_str().unwrap().ends_with("; processed"), "{sent:#}");
        let mut wanted = vec![format!("{name}.first")];
        wanted.extend(others.iter().map(ToString::to_string));
        let got = pair.bob().reaches("in", &wanted[0], "filed");
        let inbox = format!("AS2/files/BOB/ALICE/inbox/{}", got["id"].as_str().unwrap());
        let mut names = pair.bob_user.ls(&inbox);
        names.sort();
        wanted.sort();
        assert_eq!(names, wanted, "{name}");
        if *name == "equal" {
            assert_eq!(pair.bob_user.get(&format!("{inbox}/a.txt")), b"A");
            assert_eq!(pair.bob_user.get(&format!("{inbox}/a~2.txt")), b"B");
        }
    }
    let (before, filed) = (alice.peak_memory(), pair.bob().messages("in").len());
    for (name, word) in BAD {
        let (began, failed) = (alice.processor_time(), alice.reaches("out", &put(name), "failed"));
        assert_eq!(failed["code"], "bad-zip", "{name}: {failed:#}");
        let reason = failed["reason"].as_str().unwrap();
        assert!(reason.contains(word) && reason.contains("--zip as-is"), "{name}: {reason}");
        let took = alice.processor_time() - began;
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
    }
    assert_eq!(pair.bob().messages("in").len(), filed, "a part of a broken archive was sent");
    let grown = alice.peak_memory() - before;
    assert!(grown < ALLOWED, "{} KiB", grown >> 10);

    let _ = alice.reaches("out", &put("most"), "delivered");
    let got = pair.bob().reaches("in", "most.first", "filed");
    let inbox = format!("AS2/files/BOB/ALICE/inbox/{}", got["id"].as_str().unwrap());
    assert_eq!(pair.bob_user.ls(&inbox).len(), 1000);
}

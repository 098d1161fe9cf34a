//! Clients that cannot run here: their packets, as their source code sends them.

use super::{Scene, content};

#[test]
fn what_winscp_sends() {
    let scene = Scene::of("replay");
    scene.sends(&["winscp-small", "winscp-large", "winscp-text"]);
    let bytes = content();
    let _ = scene.drives("winscp-small-cancel", "small.edi", &bytes).ok();
    let _ = scene.drives("winscp-large-cancel", "large.edi", &bytes).ok();
    scene.is_kept_back("large.edi");
    assert!(!scene.lists("small.edi"), "WinSCP removes what it breaks off");
    let _ = scene.drives("winscp-large-resume", "large.edi", &bytes).ok();
    scene.is_sent_once("large.edi", &bytes);
}

#[test]
fn what_filezilla_sends() {
    let scene = Scene::of("replay");
    scene.sends(&["filezilla"]);
    let bytes = content();
    let _ = scene.drives("filezilla-cancel", "cut.edi", &bytes).ok();
    scene.is_kept_back("cut.edi");
    let _ = scene.drives("filezilla-resume", "cut.edi", &bytes).ok();
    scene.is_sent_once("cut.edi", &bytes);
}

#[test]
fn what_cyberduck_and_java_programs_send() {
    let scene = Scene::of("replay");
    scene.sends(&["cyberduck", "cyberduck-temporary", "sshj", "jsch", "zero-first"]);
    let bytes = content();
    let _ = scene.drives("filezilla-cancel", "cut.edi", &bytes).ok();
    let _ = scene.drives("jsch-resume", "cut.edi", &bytes).ok();
    scene.is_sent_once("cut.edi", &bytes);
}

#[test]
fn what_spring_integration_sends() {
    let scene = Scene::of("replay");
    let bytes = content();
    scene.sends(&["spring"]);
    // The name once more: its REMOVE meets a file that is gone.
    let told = scene.drives("spring", "spring.edi", &bytes);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let again = scene.pair.alice().reaches("out", "spring.edi", "duplicate");
    assert_eq!(again["size"].as_u64(), Some(bytes.len() as u64));
}

#[test]
fn two_writers_of_one_name_never_mix_their_halves() {
    let scene = Scene::of("replay");
    let bytes = content();
    let told = scene.drives("halves", "halves.edi", &bytes).stdout;
    assert!(told.contains("close: 4") && told.contains("upload it whole"), "{told}");
    scene.nothing_whole_is_made_of("halves.edi", &bytes);
}

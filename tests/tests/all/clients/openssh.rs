//! OpenSSH's `sftp` and `scp`, what runs over its `ssh` (lftp, sshfs), and its `sftp` over dropbear.

use super::Scene;

#[test]
fn sftp_and_its_habits() {
    let scene = Scene::of("openssh");
    scene.sends(&["put", "times", "rename", "again", "touch"]);
    scene.breaks_off_and_resumes();
}

#[test]
fn scp_and_its_habits() {
    let scene = Scene::of("scp");
    scene.sends(&["put", "times"]);
    scene.breaks_off();
}

#[test]
fn lftp_and_its_habits() {
    let scene = Scene::of("lftp");
    scene.sends(&["put", "rename", "touch", "chunks"]);
    scene.sends_the_first_again();
    scene.breaks_off_and_resumes();
}

#[test]
fn dropbear_and_its_habits() {
    Scene::of("dropbear").sends(&["put", "rename", "again"]);
}

#[test]
fn a_mounted_directory_takes_a_copied_file() {
    // A container without FUSE cannot mount.
    if std::path::Path::new("/dev/fuse").exists() {
        Scene::of("sshfs").sends(&["put", "times", "tar"]);
    } else {
        eprintln!("skipped: no /dev/fuse");
    }
}

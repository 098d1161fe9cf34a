//! Clients that are libraries, and rclone: paramiko, asyncssh, ssh2-sftp-client for Node.

use super::{BLOCK, Scene, content};

#[test]
fn rclone_and_its_habits() {
    let scene = Scene::of("rclone");
    scene.sends(&["put", "rename", "touch", "chunks"]);
    scene.sends_the_first_again();
    scene.breaks_off();
}

#[test]
fn paramiko_and_its_habits() {
    let scene = Scene::of("paramiko");
    scene.sends(&["put", "times", "rename", "again", "touch", "chunks"]);
    scene.breaks_off_and_resumes();
}

#[test]
fn paramiko_says_by_stat_that_a_file_of_whole_blocks_is_complete() {
    let scene = Scene::of("paramiko");
    for blocks in [1, 20] {
        let (name, bytes) = (format!("whole-{blocks}.bin"), content().repeat(2)[..BLOCK * blocks].to_vec());
        let _ = scene.drives("put", &name, &bytes).ok();
        scene.is_sent_once(&name, &bytes);
    }
}

#[test]
fn what_paramiko_breaks_off_is_not_sent_by_a_look_at_it() {
    let scene = Scene::of("paramiko");
    scene.sends(&["cleaned", "looked"]);
}

#[test]
fn what_paramiko_breaks_off_after_its_first_block_is_not_sent() {
    let scene = Scene::of("paramiko");
    let _ = scene.drives("first", "first.bin", &content()).ok();
    scene.is_kept_back("first.bin");
}

#[test]
fn whole_blocks_under_a_temporary_name_are_sent_by_the_rename() {
    // 255 KiB are the block of asyncssh, 32 KiB that of paramiko.
    let bytes = content().repeat(14)[..BLOCK * 255].to_vec();
    for client in ["paramiko", "asyncssh"] {
        let scene = Scene::of(client);
        let _ = scene.drives("rename", "whole.bin", &bytes).ok();
        scene.is_sent_once("whole.bin", &bytes);
    }
}

#[test]
fn asyncssh_and_its_habits() {
    let scene = Scene::of("asyncssh");
    scene.sends(&["put", "times", "rename", "again"]);
    scene.breaks_off_and_resumes();
}

#[test]
fn ssh2_for_node_and_its_habits() {
    let scene = Scene::of("node");
    scene.sends(&["put", "rename", "again", "touch", "chunks"]);
    scene.breaks_off_and_resumes();
}

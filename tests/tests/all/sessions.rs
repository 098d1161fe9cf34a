//! Many sessions at once, each in the middle of a transfer.

use std::path::Path;
use std::sync::Arc;

use russh::client;
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};
use tests::packets::{Answer, packet, string};
use tests::process::hundreds_of_sockets;
use tests::{Pair, wait_for};

const MIB: u64 = 1 << 20;

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// Logs in, opens a file for writing and one for reading, and stops in the middle of both.
async fn transfer(port: u16, key: &Path, name: &str) -> (client::Handle<Trusting>, russh::Channel<client::Msg>) {
    let mut handle = client::connect(Arc::default(), ("127.0.0.1", port), Trusting).await.unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::new(load_secret_key(key, None).unwrap()), None);
    assert!(handle.authenticate_publickey("crowd", key).await.unwrap().success());
    let mut channel = handle.channel_open_session().await.unwrap();
    channel.request_subsystem(true, "sftp").await.unwrap();
    let mut answers = Answers::default();
    channel.data_bytes(packet(1, 3, &[])).await.unwrap();
    let path = string(format!("AS2/send/ALICE/BOB/{name}").as_bytes());
    let open = packet(3, 1, &[&path, &0x1au32.to_be_bytes(), &[0; 4]]);
    channel.data_bytes(open).await.unwrap();
    let opened = answers.find(&mut channel, 1).await;
    assert_eq!(opened.kind, 102, "{}", String::from_utf8_lossy(&opened.body));
    // A block of OpenSSH's length, of which the half has arrived.
    let write = packet(6, 2, &[&string(&opened.text()), &[0; 8], &string(&vec![7; 261_120])]);
    channel.data_bytes(write[..130_000].to_vec()).await.unwrap();
    (handle, channel)
}

#[derive(Default)]
struct Answers(Vec<u8>);

impl Answers {
    async fn find(&mut self, channel: &mut russh::Channel<client::Msg>, id: u32) -> Answer {
        loop {
            while let Some(length) = self.0.first_chunk::<4>().map(|head| u32::from_be_bytes(*head) as usize)
                && self.0.len() >= length + 4
            {
                let body: Vec<u8> = self.0.drain(..length + 4).skip(4).collect();
                let found = u32::from_be_bytes(body[1..5].try_into().unwrap());
                if body[0] != 2 && found == id {
                    return Answer {
                        kind: body[0],
                        id,
                        body: body[5..].to_vec(),
                    };
                }
            }
            if let russh::ChannelMsg::Data { data } = channel.wait().await.expect("the channel goes on") {
                self.0.extend_from_slice(&data);
            }
        }
    }
}

#[test]
fn five_hundred_sessions_in_the_middle_of_a_transfer_take_under_two_hundred_mebibytes() {
    const SESSIONS: usize = 500;
    let _turn = hundreds_of_sockets();
    let pair = Pair::one_with(&[
        ("sftp.max_connections", "2000"),
        ("sftp.max_connections_per_ip", "2000"),
        ("uploads.release_after", "\"1h\""),
    ]);
    let gateway = pair.alice();
    let key = gateway.ssh_key("crowd", "ed25519");
    gateway.ok(&["user", "add", "crowd", "--public-key", &format!("{}.pub", key.display())]);
    let port = gateway.sftp_port;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let held = runtime.block_on(async {
        let few = Arc::new(tokio::sync::Semaphore::new(20));
        let tasks: Vec<_> = (0..SESSIONS)
            .map(|k| {
                let (few, key) = (Arc::clone(&few), key.clone());
                tokio::spawn(async move {
                    let _turn = few.acquire_owned().await.unwrap();
                    transfer(port, &key, &format!("{k}.edi")).await
                })
            })
            .collect();
        let mut held = Vec::new();
        for task in tasks {
            held.push(task.await.unwrap());
        }
        held
    });
    wait_for("the sessions in the list", || {
        (gateway.json(&["session", "list"]).as_array().unwrap().len() == SESSIONS).then_some(())
    });
    let peak = gateway.peak_memory();
    println!("{SESSIONS} sessions in a transfer: {} MiB in all", peak / MIB);
    assert!(peak < 200 * MIB, "{} MiB", peak / MIB);
    // The server still serves others.
    assert!(gateway.user("after").logs_in());
    drop(held);
    runtime.shutdown_background();
}

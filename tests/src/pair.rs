//! ALICE and BOB: two stations that trade, in one process or in two.

use std::path::PathBuf;

use serde_json::Value;

use crate::gateway::Gateway;
use crate::process::{run, tool};
use crate::sftp::Sftp;
use crate::wire::Request;

/// Two stations with a user each.
pub struct Pair {
    first: Gateway,
    second: Option<Gateway>,
    /// Puts for ALICE.
    pub alice_user: Sftp,
    /// Fetches for BOB.
    pub bob_user: Sftp,
}

/// A file that went from ALICE to BOB, seen from both ends.
pub struct Parcel {
    /// `message show` at ALICE.
    pub sent: Value,
    /// `message show` at BOB.
    pub got: Value,
}

impl Parcel {
    /// ALICE's `<id>`.
    #[must_use]
    pub fn sent_id(&self) -> &str {
        self.sent["id"].as_str().unwrap()
    }

    /// BOB's `<id>`.
    #[must_use]
    pub fn got_id(&self) -> &str {
        self.got["id"].as_str().unwrap()
    }
}

impl Pair {
    /// ALICE in one process, BOB in another; keys and settings exchanged as people do, by files.
    #[must_use]
    #[track_caller]
    pub fn two_gateways() -> Self {
        Self::two_of(Gateway::stopped(&[]), Gateway::stopped(&[]))
    }

    /// The same with further settings of both.
    #[must_use]
    #[track_caller]
    pub fn two_with(settings: &[(&str, &str)]) -> Self {
        Self::two_of(Gateway::stopped(settings), Gateway::stopped(settings))
    }

    /// The same with gateways that are set up and do not serve yet.
    #[must_use]
    #[track_caller]
    pub fn two_of(alice: Gateway, bob: Gateway) -> Self {
        alice.ok(&["station", "add", "ALICE", "--email", "edi@alice.example"]);
        bob.ok(&["station", "add", "BOB", "--email", "edi@bob.example"]);
        introduce(&bob, "BOB", &alice);
        introduce(&alice, "ALICE", &bob);
        let (alice_user, bob_user) = (alice.user("alice-erp"), bob.user("bob-erp"));
        alice.start();
        bob.start();
        Pair {
            first: alice,
            second: Some(bob),
            alice_user,
            bob_user,
        }
    }

    /// Both stations in one data directory, as in the walk-through.
    #[must_use]
    #[track_caller]
    pub fn one_gateway() -> Self {
        Self::one_with(&[])
    }

    /// The same with further settings.
    #[must_use]
    #[track_caller]
    pub fn one_with(settings: &[(&str, &str)]) -> Self {
        let gateway = Gateway::stopped(settings);
        for station in ["ALICE", "BOB"] {
            gateway.ok(&["station", "add", station]);
        }
        for station in ["ALICE", "BOB"] {
            gateway.ok(&["partner", "add", "--from-station", station]);
        }
        let (alice_user, bob_user) = (gateway.user("alice-erp"), gateway.user("bob-erp"));
        gateway.start();
        Pair {
            first: gateway,
            second: None,
            alice_user,
            bob_user,
        }
    }

    /// ALICE's gateway.
    #[must_use]
    pub fn alice(&self) -> &Gateway {
        &self.first
    }

    /// BOB's gateway.
    #[must_use]
    pub fn bob(&self) -> &Gateway {
        self.second.as_ref().unwrap_or(&self.first)
    }

    /// Puts a file for BOB under ALICE's send directory.
    #[track_caller]
    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let local = self.alice().file(&format!("local/{name}"), bytes);
        self.alice_user.put(&local, &format!("AS2/send/ALICE/BOB/{name}"));
        local
    }

    /// Puts a file and waits until ALICE calls it delivered and BOB has filed it.
    #[track_caller]
    pub fn deliver(&self, name: &str, bytes: &[u8]) -> Parcel {
        self.put(name, bytes);
        self.delivered(name)
    }

    /// Waits until a file that was put is delivered and filed.
    #[track_caller]
    pub fn delivered(&self, name: &str) -> Parcel {
        let sent = self.alice().reaches("out", name, "delivered");
        let got = self.bob().reaches("in", name, "filed");
        Parcel { sent, got }
    }

    /// A good exchange of these bytes from ALICE to BOB, as it went over the wire, under a Message-ID of its own.
    #[must_use]
    #[track_caller]
    pub fn captured(&self, name: &str, bytes: &[u8]) -> Request {
        let parcel = self.deliver(name, bytes);
        let of = |area: &str, file: &str| {
            self.alice_user
                .get(&format!("AS2/{area}/ALICE/BOB/outbox/{}/{file}", parcel.sent_id()))
        };
        let (block, body) = (of("headers", "headers.txt"), of("raw-message", "message.as2"));
        Request::captured(&String::from_utf8(block).unwrap(), body).with("Message-ID", &format!("<{name}@test>"))
    }

    /// The bytes in BOB's inbox, fetched by SFTP.
    #[must_use]
    #[track_caller]
    pub fn fetch(&self, parcel: &Parcel) -> Vec<u8> {
        let name = parcel.got["file"].as_str().unwrap();
        self.bob_user.get(&format!("AS2/files/BOB/ALICE/inbox/{}/{name}", parcel.got_id()))
    }
}

/// Makes a station known to another gateway: certificate by file, URL and id by hand.
#[track_caller]
pub fn introduce(station: &Gateway, id: &str, to: &Gateway) {
    let certificate = station_certificate(station, id);
    let url = format!("http://127.0.0.1:{}/as2", station.as2_port);
    let file = to.file(&format!("{id}.pem"), certificate.as_bytes());
    add_partner(to, id, &url, file.to_str().unwrap());
}

/// The name of a station's certificate.
#[must_use]
#[track_caller]
pub fn certificate_name(gateway: &Gateway, id: &str) -> String {
    let station = gateway.json(&["station", "show", id]);
    station["certificate"].as_str().expect("the station's certificate").to_owned()
}

/// The certificate of a station in PEM.
#[must_use]
#[track_caller]
pub fn station_certificate(gateway: &Gateway, id: &str) -> String {
    gateway.ok(&["cert", "export", &certificate_name(gateway, id)])
}

/// A station's private key, the way Java would get it.
#[must_use]
#[track_caller]
pub fn private_key(gateway: &Gateway, file: &str) -> PathBuf {
    let stores = gateway.json(&["cert", "stores", "--reveal"]);
    let store = stores
        .as_array()
        .unwrap()
        .iter()
        .find(|store| store["file"].as_str().unwrap().ends_with("identity.jks"))
        .unwrap()
        .clone();
    let out = gateway.path(file);
    let path = gateway.path(store["file"].as_str().unwrap());
    let pass = format!("pass:{}", store["password"].as_str().unwrap());
    let args = [
        "pkcs12",
        "-in",
        path.to_str().unwrap(),
        "-passin",
        &pass,
        "-nodes",
        "-nocerts",
        "-out",
        out.to_str().unwrap(),
    ];
    let _ = run(&mut tool("openssl", &args)).ok();
    out
}

/// Adds a partner on a loopback URL with one certificate for everything.
#[track_caller]
pub fn add_partner(gateway: &Gateway, id: &str, url: &str, certificate: &str) {
    gateway.ok(&[
        "partner",
        "add",
        id,
        "--url",
        url,
        "--certificate",
        certificate,
        "--private",
        "true",
    ]);
}

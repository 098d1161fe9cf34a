//! The partner that plays what it is told.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tests::process::{PATIENCE, free_port, wait_seeing};
use tests::wire::{Hit, Request, exchange, http, serve};
use tests::{order, wait_for};

use super::craft::Receipt;
use super::{QUIET, STATION, Stage, next, stage};

/// One message to one partner that plays a script.
pub(super) struct Scene {
    pub(super) stage: Arc<Stage>,
    pub(super) partner: String,
    pub(super) hits: Arc<Mutex<Vec<Hit>>>,
}

/// An MDN in an answer.
pub(super) fn answer(status: u16, mdn: &Request) -> Vec<u8> {
    let headers: Vec<_> = mdn.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    http(status, &headers, std::str::from_utf8(&mdn.body).unwrap())
}

impl Scene {
    /// Sends an order to a new partner that plays this script.
    pub(super) fn play(mode: &str, options: &[&str], script: impl Fn(&Hit, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::of(&stage(), mode, options, script)
    }

    pub(super) fn of(
        stage: &Arc<Stage>,
        mode: &str,
        options: &[&str],
        script: impl Fn(&Hit, usize) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        Self::towards(stage, port, mode, options, &order(next()), serve(listener, script))
    }

    pub(super) fn towards(stage: &Arc<Stage>, port: u16, mode: &str, options: &[&str], bytes: &[u8], hits: Arc<Mutex<Vec<Hit>>>) -> Self {
        let partner = format!("P{}", next());
        stage.add(&partner, port, &[&["--mdn", mode], options].concat());
        let file = stage.gate.file(&format!("local/{partner}.edi"), bytes);
        let file = file.to_str().unwrap();
        stage.gate.ok(&["send", "--from", STATION, "--to", &partner, file]);
        Scene {
            stage: Arc::clone(stage),
            partner,
            hits,
        }
    }

    pub(super) fn message(&self) -> Value {
        let list = self
            .stage
            .gate
            .json(&["message", "list", "--direction", "out", "--partner", &self.partner]);
        assert_eq!(list.as_array().unwrap().len(), 1, "{list:#}");
        self.stage.gate.show(list[0]["id"].as_str().unwrap())
    }

    /// Waits for a state.
    #[track_caller]
    pub(super) fn reaches(&self, state: &str) -> Value {
        wait_seeing(PATIENCE, || {
            let message = self.message();
            if message["state"] == state {
                return Ok(message);
            }
            let over = ["delivered", "failed", "held"].iter().any(|word| message["state"] == *word);
            assert!(!over, "not {state}, but {message:#}");
            Err(format!("{state}, but it is {message:#}"))
        })
    }

    /// Waits for the end, and sees that it stays the end: this state and code, and so many posts of the same bytes.
    #[track_caller]
    pub(super) fn ends(&self, state: &str, code: &str, posts: usize) -> Value {
        self.reaches(state);
        thread::sleep(QUIET);
        let message = self.message();
        assert_eq!((&message["state"], &message["code"]), (&state.into(), &code.into()), "{message:#}");
        self.posts(posts);
        let tray = match state {
            "delivered" => "outbox",
            "failed" => "failed",
            _ => return message,
        };
        let dir = format!("AS2/files/{STATION}/{}", self.partner);
        let id = message["id"].as_str().unwrap().to_owned();
        let other = if tray == "outbox" { "failed" } else { "outbox" };
        assert!(self.stage.user.ls(&format!("{dir}/{tray}")).contains(&id), "not in {tray}");
        let left = self.stage.user.run(&[&format!("ls -1 {dir}/{other}/{id}/")]);
        assert!(!left.stdout.contains(".edi"), "a file is left in {other}: {left}");
        message
    }

    /// So many posts have come, and all are one request.
    #[track_caller]
    pub(super) fn posts(&self, count: usize) {
        let hits = self.hits.lock().unwrap().clone();
        assert_eq!(hits.len(), count, "posts to {}", self.partner);
        for hit in &hits {
            assert_eq!(hit.head, hits[0].head, "a retry has other headers");
            assert!(hit.message.body == hits[0].message.body, "a retry has other bytes");
        }
    }

    /// The first request, once it is there.
    #[track_caller]
    pub(super) fn hit(&self) -> Hit {
        wait_for("a post", || self.hits.lock().unwrap().first().cloned())
    }

    /// Posts an MDN to the gateway, which has to take it.
    #[track_caller]
    pub(super) fn post_mdn(&self, mdn: &Request) {
        post_mdn(self.stage.gate.as2_port, mdn);
    }
}

#[track_caller]
pub(super) fn post_mdn(port: u16, mdn: &Request) {
    let answer = exchange(port, "POST", "/mdn", &mdn.headers, &mdn.body);
    assert!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.text());
}

/// The script of a partner that behaves.
pub(super) fn good(stage: &Arc<Stage>) -> impl Fn(&Hit) -> Vec<u8> + Send + Sync + use<> {
    let stage = Arc::downgrade(stage);
    move |hit| {
        stage
            .upgrade()
            .map_or_else(Vec::new, |stage| answer(200, &Receipt::of(hit).signed(&stage.partner)))
    }
}

/// A script that makes its answer with the stage at hand; the stage is not kept alive by it.
pub(super) fn with_stage(
    play: impl Fn(&Stage, &Hit, usize) -> Vec<u8> + Send + Sync + 'static,
) -> impl Fn(&Hit, usize) -> Vec<u8> + Send + Sync {
    let stage = Arc::downgrade(&stage());
    move |hit, count| stage.upgrade().map_or_else(Vec::new, |stage| play(&stage, hit, count))
}

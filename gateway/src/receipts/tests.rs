#![allow(clippy::unwrap_used, clippy::expect_used)]

use as2_core::disposition::Disposition;
use as2_core::mic::Mic;

use super::*;
use crate::manage::tests::{Place, accept, message, place_with, plain_pair};
use crate::message::{Direction, MicRecord};

const BODY: &[u8] = b"abc";

/// A positive MDN that names a MIC of this content.
fn mdn(content: &[u8]) -> Evidence {
    let mut headers = Headers::new();
    headers.push("AS2-From", "BOB").unwrap();
    headers.push("AS2-To", "ALICE").unwrap();
    let digest = openssl::base64::encode_block(&openssl::sha::sha512(content));
    let mdn = Mdn {
        original_message_id: "<1@alice>".to_owned(),
        disposition: Disposition::processed(),
        mic: Some(Mic::parse(&format!("{}, sha-512", digest.replace('\n', ""))).unwrap()),
        unreadable_mic: None,
        text: String::new(),
        final_recipient: String::new(),
        original_recipient: String::new(),
        reporting_ua: String::new(),
    };
    let mdn = ReceivedMdn {
        mdn,
        signature: MdnSignature::None,
    };
    Evidence {
        mdn,
        headers,
        body: Vec::new(),
    }
}

/// A sent message that ended so.
async fn sent(core: &Core, state: State, code: &str) -> Message {
    let mut message = message(Direction::Out, state, "j:1", core.clock.now());
    message.message_id = "<1@alice>".to_owned();
    message.detail.mdn_mode = Some(crate::partner::MdnMode::Async);
    code.clone_into(&mut message.code);
    message.finished = Some(core.clock.now());
    accept(core, &message, BODY).await;
    message
}

async fn take(core: &Arc<Core>, content: &[u8]) {
    let pair = core.partnership("ALICE", "BOB").unwrap();
    take_async(core, &pair, mdn(content), true).await.unwrap();
}

fn found(core: &Core, message: &Message) -> Message {
    core.journal.read(|tx| tx.expect_message(message.id.as_str())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_computed_for_one_mdn_is_there_for_the_next() {
    let Place { core, dir: _dir, .. } = place_with(|config| config.storage.min_free = 0).await;
    plain_pair(&core).await;
    let message = sent(&core, State::Failed, code::NO_MDN).await;
    take(&core, b"something else").await;
    let known = found(&core, &message).detail.mics;
    assert!(known.iter().any(|MicRecord { mic, .. }| mic.ends_with("512")), "{known:?}");
    let db = rusqlite::Connection::open(core.config.paths().db).unwrap();
    db.execute("DELETE FROM blob WHERE key = 'j:1'", []).unwrap();
    take(&core, BODY).await;
    assert_eq!(found(&core, &message).state, State::Delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_computed_for_a_message_that_no_mdn_moves() {
    let Place { core, dir: _dir, .. } = place_with(|config| config.storage.min_free = 0).await;
    plain_pair(&core).await;
    let message = sent(&core, State::Delivered, "").await;
    take(&core, BODY).await;
    assert_eq!(found(&core, &message).detail.mics, []);
    let shown = core.journal.read(|tx| tx.entries_of(message.id.as_str())).unwrap();
    assert_eq!(shown.len(), 1, "the MDN is kept beside");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_an_mdn_holds_says_what_can_be_done() {
    let Place { core, dir: _dir, .. } = place_with(|config| config.storage.min_free = 0).await;
    plain_pair(&core).await;
    let message = sent(&core, State::WaitingMdn, "").await;
    let verdict = Verdict::Held {
        code: "duplicate-at-partner".to_owned(),
        reason: "the partner calls the first attempt a duplicate".to_owned(),
    };
    apply(&core, message.clone(), verdict, mdn(BODY)).await.unwrap();
    let held = found(&core, &message);
    assert_eq!((held.state, held.code.as_str()), (State::Held, "duplicate-at-partner"));
    assert!(held.detail.hint.contains("as2gate message retry"), "{}", held.detail.hint);
}

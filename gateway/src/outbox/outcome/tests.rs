//! Answers that end early.
#![allow(clippy::unwrap_used)]

use as2_core::algorithm::{Digest, DigestNames, SignatureScheme};
use as2_core::compose::Signing;
use as2_core::disposition::Disposition;
use as2_core::id::As2Id;
use as2_core::mdn::{self, MdnOut};
use as2_core::message_id::MessageId;

use super::*;
use crate::manage::tests::{Place, accept, message, place_with, plain_pair};
use crate::message::Direction;

/// A message that was posted, and its pair; the partner signs with the key that is ours.
struct Scene {
    place: Place,
    message: Message,
    pair: Arc<Partnership>,
}

impl Scene {
    async fn new() -> Self {
        let place = place_with(|config| config.storage.min_free = 0).await;
        let core = &place.core;
        plain_pair(core).await;
        let mut message = message(Direction::Out, State::Sending, "j:1", core.clock.now());
        message.message_id = "<1@alice>".to_owned();
        accept(core, &message, b"abc").await;
        let mut pair = Partnership::resolve(&core.objects(), &core.master, "ALICE", "BOB", core.clock.now()).unwrap();
        pair.signers.push(pair.signer().unwrap().certificate().clone());
        let pair = Arc::new(pair);
        Scene { place, message, pair }
    }

    /// The whole answer with an MDN that says so, as one that the end of the connection ends.
    fn answer(&self, disposition: &str, sign: bool) -> Answer {
        let signing = Signing {
            identity: self.pair.signer().unwrap(),
            digest: Digest::Sha256,
            scheme: SignatureScheme::RsaPkcs1,
            include_certificate: true,
            protect_algorithms: false,
        };
        let (headers, body) = mdn::compose(MdnOut {
            from: As2Id::parse("BOB").unwrap(),
            to: As2Id::parse("ALICE").unwrap(),
            message_id: MessageId::new("2", "bob").unwrap(),
            original_message_id: self.message.message_id.clone(),
            now: self.place.core.clock.now() / 1000,
            disposition: Disposition::parse(disposition),
            mic: None,
            digest_names: DigestNames::Rfc5751,
            text: String::new(),
            explanation: None,
            sign: sign.then_some(signing),
            as2_version: "1.2".to_owned(),
            product: "bob/1".to_owned(),
            subject: "receipt".to_owned(),
            nonce: [3; 16],
            recipient_url: None,
        })
        .unwrap();
        Answer {
            status: 200,
            headers,
            raw_head: Vec::new(),
            body,
            complete: true,
            until_close: true,
            over_limit: false,
            tls: None,
            sent_head: Vec::new(),
            body_sent: true,
            twice: false,
        }
    }

    /// `delivered`, or the code of what else becomes of the message.
    async fn ends(&self, answer: &Answer) -> String {
        let mut message = self.message.clone();
        match judge(&self.place.core, &mut message, &self.pair, Ok(answer)).await.unwrap() {
            After::Ended(Verdict::Delivered { .. }, Some(_)) => "delivered".to_owned(),
            After::Ended(Verdict::Failed { code, .. }, _) => code,
            After::Again { code, .. } => code.to_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// The same, without what begins with `from`.
fn cut(answer: &Answer, from: &str) -> Answer {
    let at = answer
        .body
        .windows(from.len())
        .rposition(|window| window == from.as_bytes())
        .unwrap();
    Answer {
        body: answer.body[..at].to_vec(),
        ..answer.clone()
    }
}

const NEGATIVE: &str = "automatic-action/MDN-sent-automatically; processed/error: decryption-failed";

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_receipt_is_whole_once_its_multipart_is_closed() {
    let scene = Scene::new().await;
    let negative = scene.answer(NEGATIVE, false);
    assert_eq!(scene.ends(&negative).await, "decryption-failed");
    for from in ["/error: decryption", "--\r\n", "Content-Type: text"] {
        assert_eq!(scene.ends(&cut(&negative, from)).await, "answer-cut-off", "{from}");
    }
    let positive = scene.answer("automatic-action/MDN-sent-automatically; processed", false);
    assert_eq!(scene.ends(&positive).await, "delivered");
    // COMPAT: old TLS servers end the connection without close_notify.
    let abrupt = Answer {
        complete: false,
        ..positive.clone()
    };
    assert_eq!(scene.ends(&abrupt).await, "delivered");
    // What was announced has to come, and is no more than that.
    let short = Answer {
        until_close: false,
        ..abrupt
    };
    assert_eq!(scene.ends(&short).await, "answer-cut-off");
    let counted = Answer {
        until_close: false,
        ..cut(&positive, "--\r\n")
    };
    assert_eq!(scene.ends(&counted).await, "delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_receipt_is_whole_once_its_signature_holds() {
    let scene = Scene::new().await;
    let whole = scene.answer("automatic-action/MDN-sent-automatically; processed", true);
    assert_eq!(scene.ends(&whole).await, "delivered");
    let unclosed = cut(&whole, "\r\n--");
    let half = Answer {
        body: whole.body[..whole.body.len() - 300].to_vec(),
        ..whole.clone()
    };
    for until_close in [true, false] {
        for (answer, end) in [(&whole, "delivered"), (&unclosed, "delivered"), (&half, "answer-cut-off")] {
            let answer = Answer {
                complete: false,
                until_close,
                ..answer.clone()
            };
            assert_eq!(scene.ends(&answer).await, end, "{until_close}");
        }
    }
    assert_eq!(scene.ends(&half).await, "answer-cut-off");
    // One that is whole and does not hold is no answer that was cut off.
    let mut forged = whole.clone();
    let at = forged.body.windows(9).position(|window| window == b"processed").unwrap();
    forged.body[at] = b'P';
    assert_ne!(scene.ends(&forged).await, "answer-cut-off");
}

impl Scene {
    /// What somebody is told to do whose message, or test, came to this.
    async fn hint(&self, pair: &Arc<Partnership>, is_test: bool, posted: Result<&Answer, &PostError>) -> String {
        let core = &self.place.core;
        let mut message = self.message.clone();
        message.detail.mdn_mode = Some(crate::partner::MdnMode::SyncSigned);
        if is_test {
            message.mark_as_test();
        }
        let after = judge(core, &mut message, pair, posted).await.unwrap();
        let hint = step(core, message, pair, after).message.detail.hint;
        // A test is made anew, and nobody needs to know what became of it.
        let about_it = ["message retry", "message resend", "partner test", "outcome is unknown"];
        assert!(
            !is_test || !hint.is_empty() && about_it.iter().all(|word| !hint.contains(word)),
            "{hint}"
        );
        hint
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_fails_says_what_helps() {
    let scene = Scene::new().await;
    let status = |status: u16| Answer {
        status,
        body: Vec::new(),
        ..scene.answer("a; processed", false)
    };
    let log = "ask the partner what its log says about <1@alice>";
    for (code, words) in [(500, log), (503, "busy or down"), (407, "--proxy-user USER"), (404, "--url URL")] {
        let hint = scene.hint(&scene.pair, true, Ok(&status(code))).await;
        assert!(hint.contains(words), "{code}: {hint}");
    }
    let error = |stage, hint: &str| PostError::new(stage, "it broke", hint);
    for (error, words) in [
        (error(Stage::Head, MAY_HOLD), log),
        (error(Stage::Send, ""), log),
        (error(Stage::Connect, "look at the firewall"), "look at the firewall"),
        (error(Stage::TlsTrust, "the partner has to renew it"), "the partner has to renew it"),
    ] {
        let hint = scene.hint(&scene.pair, true, Err(&error)).await;
        assert!(hint.contains(words), "{error:?}: {hint}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mdn_that_proves_nothing_says_what_is_lacking() {
    let scene = Scene::new().await;
    let core = &scene.place.core;
    let positive = "automatic-action/MDN-sent-automatically; processed";
    let unsigned = scene.answer(positive, false);
    for is_test in [true, false] {
        let hint = scene.hint(&scene.pair, is_test, Ok(&unsigned)).await;
        assert!(
            hint.contains("partner set BOB --mdn sync") && !hint.contains("certificate"),
            "{hint}"
        );
    }
    // By a key that nobody has pinned.
    let resolve = || Partnership::resolve(&core.objects(), &core.master, "ALICE", "BOB", core.clock.now()).unwrap();
    let signed = scene.answer(positive, true);
    let add = "cert add NAME --partner BOB --use sign --file FILE";
    let mut strange = resolve();
    strange.partner.detects_duplicates = true;
    let strange = Arc::new(strange);
    assert!(scene.hint(&strange, true, Ok(&signed)).await.ends_with(add));
    let retry = format!("{add}, then as2gate message retry {}", scene.message.id.short());
    assert!(scene.hint(&strange, false, Ok(&signed)).await.ends_with(&retry));
    let mut forgetful = resolve();
    forgetful.partner.detects_duplicates = false;
    let hint = scene.hint(&Arc::new(forgetful), false, Ok(&signed)).await;
    assert!(hint.contains("the outcome is unknown") && hint.ends_with(add), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_the_partner_did_not_take() {
    let scene = Scene::new().await;
    let refusal = |words: &str| scene.answer(&format!("automatic-action/MDN-sent-automatically; {words}"), true);
    for (words, told) in [
        ("failed/Failure: unsupported MIC-algorithms", "partner set BOB --micalgs DIGESTS"),
        ("processed/error: unexpected-processing-error", "the partner's words stand above"),
    ] {
        let refusal = refusal(words);
        assert!(scene.hint(&scene.pair, true, Ok(&refusal)).await.contains(told), "{words}");
        let hint = scene.hint(&scene.pair, false, Ok(&refusal)).await;
        assert!(hint.contains(told) && hint.contains("then as2gate message resend"), "{hint}");
    }
}

//! The last byte again, of a transfer that came whole and was rejected.

use std::fs;

use super::*;

/// Seconds after which a check that failed by a fault of the gateway's own is tried again.
const TRIED_AGAIN: i64 = 31;

/// A message with a transfer id whose last block does not decrypt.
fn broken_message(pair: &Pair, name: &str) -> Request {
    let mut request = restartable(pair, name, SIZE);
    *request.body.last_mut().unwrap() ^= 1;
    request
}

#[track_caller]
fn rejected(answer: &Answer) {
    assert!(
        answer.status == 200 && answer.is_signed() && answer.disposition().contains("processed/error"),
        "{}: {}",
        answer.status,
        answer.text()
    );
}

/// The states of the messages under a request's Message-ID.
fn states(pair: &Pair, request: &Request) -> Vec<String> {
    let id = request.header("Message-ID").unwrap();
    let all = pair.bob().messages("in").into_iter();
    all.filter(|message| message["message_id"] == id)
        .map(|message| message["state"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_sender_that_lost_the_error_gets_it_for_the_last_byte() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let request = broken_message(&pair, "error-lost.edi");
    let total = request.body.len();
    let first = request.post(port);
    rejected(&first);
    let again = ranged(&request, total - 1).post(port);
    assert!(again.status == 200 && again.body == first.body, "another answer: {}", again.text());
    assert_eq!(states(&pair, &request), ["rejected"]);
}

#[test]
fn a_stored_error_is_no_answer_for_whom_waits_elsewhere() {
    let pair = pair();
    let port = pair.bob().as2_port;
    let request = broken_message(&pair, "error-later.edi");
    let total = request.body.len();
    rejected(&request.post(port));
    let later = request.clone().with("Receipt-Delivery-Option", "http://127.0.0.1:9/");
    let again = ranged(&later, total - 1).post(port);
    refused_range(&again, 0);
    assert!(again.disposition().is_empty() && !again.is_signed(), "{}", again.text());
    // And as nothing is held any more, all of it comes again.
    let whole = later.post(port);
    assert_eq!((whole.status, whole.text().as_str()), (204, ""));
}

#[test]
fn a_last_byte_that_waited_gets_the_error_of_the_copy_that_it_waited_for() {
    let pair = Pair::two_gateways();
    let (bob, port) = (pair.bob(), pair.bob().as2_port);
    let request = broken_message(&pair, "error-waited-for.edi");
    let total = request.body.len();
    // With a file where its spool was the gateway takes a transfer, which has a place of its own, and cannot check it yet.
    let (spool, away) = (bob.path("data/spool"), bob.path("data/spool-away"));
    fs::rename(&spool, &away).unwrap();
    fs::write(&spool, b"").unwrap();
    let first = request.post(port);
    fs::remove_file(&spool).unwrap();
    fs::rename(&away, &spool).unwrap();
    assert_eq!((first.status, states(&pair, &request)), (503, vec!["received".to_owned()]));
    let last = ranged(&request, total - 1);
    let waiting = thread::spawn(move || last.post(port));
    wait_for("the last byte to be waiting", || (ask(port, &request).status == 500).then_some(()));
    bob.set_clock(TRIED_AGAIN);
    let answer = waiting.join().unwrap();
    rejected(&answer);
    let id = bob.messages("in")[0]["id"].as_str().unwrap().to_owned();
    let stored = pair.bob_user.get(&format!("AS2/raw-mdn/outgoing/{id}.mdn"));
    assert!(stored.ends_with(&answer.body), "not the stored one: {}", answer.text());
    assert_eq!(states(&pair, &request), ["rejected"]);
}

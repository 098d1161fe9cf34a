//! Messages and receipts that other products really sent, where the folder with them lies beside the project. They are
//! never copied into it. Every file of the folder has its expectation here: one that has none fails the test.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");

/// Whether the folder is there. That it is not is told past the harness, which shows the output of failing tests only.
fn is_there() -> bool {
    let there = Path::new(FIXTURES).join("README.md").is_file();
    if !there {
        let said = format!("SKIPPED, nothing was proven: messages of other products are looked for in {FIXTURES}\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    there
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(FIXTURES).join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn certificate(name: &str) -> Certificate {
    let x509 = openssl::x509::X509::from_pem(&file(&format!("keys/{name}.crt"))).unwrap();
    Certificate::from_der(&x509.to_der().unwrap()).unwrap()
}

fn server() -> Identity {
    let key = openssl::pkey::PKey::private_key_from_pem(&file("keys/server.key")).unwrap();
    let cert = openssl::x509::X509::from_pem(&file("keys/server.crt")).unwrap();
    Identity::new(&cert.to_der().unwrap(), &key.private_key_to_pkcs8().unwrap()).unwrap()
}

/// The folder's index: each message and the MIC that its sender logged.
fn index() -> BTreeMap<String, String> {
    let readme = String::from_utf8(file("README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| {
        let mut cells = line.trim_matches(['|', ' ']).split('|').map(str::trim);
        let (name, mic) = (cells.next()?.to_owned(), cells.next()?.strip_prefix('`')?.strip_suffix('`')?);
        Some((name, format!("{mic}, sha-256")))
    });
    rows.collect()
}

/// Every file of the folder, as a path below it.
fn all_files() -> Vec<String> {
    let (mut found, mut left) = (Vec::new(), vec![PathBuf::from(FIXTURES)]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                left.push(entry);
            } else {
                found.push(entry.strip_prefix(FIXTURES).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_file_of_other_products_meets_its_expectation() {
    if !is_there() {
        return;
    }
    let (files, index) = (all_files(), index());
    for name in index.keys() {
        for ext in ["pkcs7", "mime", "txt"] {
            assert!(
                files.contains(&format!("openas2/{name}.{ext}")),
                "{name}.{ext} is in the index and not in the folder"
            );
        }
    }
    let mut met = 0;
    for path in &files {
        match path.split('/').collect::<Vec<_>>()[..] {
            ["README.md" | "LICENSE.txt"] => {}
            ["keys", "server.key" | "server.crt"] => drop(server()),
            ["keys", "client.crt"] => drop(certificate("client")),
            ["openas2", name] => {
                let (name, ext) = name.rsplit_once('.').unwrap();
                let mic = index.get(name).unwrap_or_else(|| panic!("{path} has no MIC in the index"));
                match ext {
                    "pkcs7" => opens(name, mic),
                    "mime" => verifies(name, mic),
                    "txt" => drop(sent(name)),
                    _ => panic!("{path}: no expectation says what it has to do"),
                }
            }
            ["mdn", "signed_mdn.yml"] => signed_receipt(),
            ["mdn", "unsigned_mdn.yml"] => unsigned_receipt(),
            _ => panic!("{path}: no expectation says what it has to do"),
        }
        met += 1;
    }
    assert!(
        met >= 3 * index.len() + 7 && index.len() == 8,
        "{met} files, {} in the index",
        index.len()
    );
}

/// The payload that was sent: the `.txt` is the signed part after a line end, so headers, blank line, encoded payload.
fn sent(name: &str) -> Vec<u8> {
    let part = file(&format!("openas2/{name}.txt"));
    let at = part.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    if name.starts_with("base64") {
        crate::mime::transfer::decode_lenient(&part[at..])
    } else {
        part[at..].to_vec()
    }
}

fn strict() -> SecurityPolicy {
    SecurityPolicy {
        accept_3des: true,
        require_signed: true,
        require_encrypted: true,
        ..SecurityPolicy::default()
    }
}

fn sealed_headers() -> Headers {
    let mut headers = Headers::new();
    let kind = "application/pkcs7-mime; smime-type=enveloped-data; name=\"smime.p7m\"";
    headers.push("Content-Type", kind).unwrap();
    headers
}

#[track_caller]
fn is_the_message(name: &str, mic: &str, (result, kept): (Result<Received, Failure>, Kept)) -> ReceivedMessage {
    let message = message(result.inspect_err(|failure| panic!("{name}: {failure}")));
    assert_eq!(message.mic.as_ref().unwrap().to_string(), mic, "{name}");
    assert!(message.signed.is_some(), "{name}");
    assert_eq!((kept.parts.len(), kept.ended), (1, 1), "{name}");
    assert_eq!(kept.parts[0].0.file_name, Some(format!("{name}.txt")));
    assert!(kept.parts[0].1 == sent(name), "{name}: {:?}", kept.parts[0]);
    message
}

#[track_caller]
fn is_refused(name: &str, kind: ErrorKind, (result, _): (Result<Received, Failure>, Kept)) -> Failure {
    let failure = result.err().unwrap_or_else(|| panic!("{name} was taken"));
    assert_eq!(failure.error.kind, kind, "{name}: {failure}");
    failure
}

/// The encrypted body opens and verifies by the pinned key, and by nothing less.
fn opens(name: &str, mic: &str) {
    let (headers, body) = (sealed_headers(), file(&format!("openas2/{name}.pkcs7")));
    let (identities, signers) = ([server()], [certificate("client")]);
    let whole = Incoming {
        policy: strict(),
        ..incoming(&headers, &identities, &signers)
    };
    for seed in [0, 1, 2] {
        let message = is_the_message(name, mic, receive(whole, &body, seed));
        assert_eq!(message.encrypted, Some(Cipher::TripleDesCbc), "{name}");
    }
    let by_default = incoming(&headers, &identities, &signers);
    is_refused(
        name,
        ErrorKind::InsufficientMessageSecurity(Lack::TripleDes),
        receive(by_default, &body, 0),
    );
    let other_key = [testkit::other().clone()];
    let to_another = Incoming {
        identities: &other_key,
        ..whole
    };
    assert!(
        is_refused(name, ErrorKind::DecryptionFailed, receive(to_another, &body, 0))
            .mic
            .is_none()
    );
    // Inside of encryption no answer tells more than that it did not decrypt (RFC 3218 §2.3.2).
    let server_as_signer = [certificate("server")];
    let by_another = Incoming {
        signers: &server_as_signer,
        ..whole
    };
    assert!(receive(by_another, &body, 0).0.is_err(), "{name} was taken from a stranger");
    for at in [body.len() / 2, body.len() - 20] {
        let mut bent = body.clone();
        bent[at] ^= 0x20;
        assert!(receive(whole, &bent, 0).0.is_err(), "{name} was taken with byte {at} bent");
    }
}

/// The entity inside is a signed message by itself: the same payload and MIC, and what it is refused for.
fn verifies(name: &str, mic: &str) {
    let entity = file(&format!("openas2/{name}.mime"));
    let at = entity.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let (headers, body) = (Headers::parse(&entity[..at + 2]).unwrap(), &entity[at + 4..]);
    let (signers, policy) = (
        [certificate("client")],
        SecurityPolicy {
            require_encrypted: false,
            ..strict()
        },
    );
    let whole = Incoming {
        policy,
        ..incoming(&headers, &[], &signers)
    };
    for seed in [0, 1, 2] {
        let message = is_the_message(name, mic, receive(whole, body, seed));
        assert_eq!(message.encrypted, None, "{name}");
    }
    let clear = Incoming { policy: strict(), ..whole };
    let failure = is_refused(
        name,
        ErrorKind::InsufficientMessageSecurity(Lack::Encryption),
        receive(clear, body, 0),
    );
    assert_eq!(failure.mic.unwrap().to_string(), mic, "{name}");
    let server_as_signer = [certificate("server")];
    let by_another = Incoming {
        signers: &server_as_signer,
        ..whole
    };
    let failure = is_refused(name, ErrorKind::AuthenticationFailed, receive(by_another, body, 0));
    assert_eq!(failure.mic.unwrap().to_string(), mic, "{name}");
    // One letter of the signed part's own header, so that it stays well-formed.
    let word = b"application/EDI-X12";
    let letter = body.windows(word.len()).position(|window| window == word).unwrap() + word.len() - 1;
    let mut altered = body.to_vec();
    altered[letter] = b'3';
    let failure = is_refused(name, ErrorKind::IntegrityCheckFailed, receive(whole, &altered, 0));
    assert_ne!(failure.mic.unwrap().to_string(), mic, "{name}: the MIC is not of what came");
}

/// Unfolds the YAML of a captured answer: headers, and the body of its one double-quoted string.
fn captured(name: &str) -> (Headers, Vec<u8>) {
    let text = String::from_utf8(file(&format!("mdn/{name}"))).unwrap();
    let (head, body) = text.split_once("\nbody: \"").unwrap();
    let mut headers = Headers::new();
    let flow = head.split_once("headers:\n").unwrap().1.replace("\n    ", " ");
    for line in flow.lines() {
        let (name, value) = line.trim().split_once(": ").unwrap();
        let value = value
            .strip_prefix(['"', '\''])
            .and_then(|v| v.strip_suffix(['"', '\'']))
            .unwrap_or(value)
            .replace("\\\"", "\"")
            .replace("\\t", "\t");
        headers.push(name, &value).unwrap();
    }
    let body = body.trim_end().strip_suffix('"').unwrap().replace("\n  ", " ");
    let body = body
        .replace("\\ ", " ")
        .replace("\\r", "\r")
        .replace("\\n", "\n")
        .replace("\\t", "\t")
        .replace("\\\"", "\"");
    (headers, body.into_bytes())
}

fn signed_receipt() {
    let (headers, body) = captured("signed_mdn.yml");
    let (signers, strangers) = ([certificate("client")], [certificate("server")]);
    for seed in 0..5 {
        let read = receipt(receive(incoming(&headers, &[], &signers), &body, seed).0);
        let signature = &read.signature;
        assert!(
            matches!(
                signature,
                MdnSignature::Verified {
                    digest: Digest::Sha256,
                    ..
                }
            ),
            "{signature:?}"
        );
        assert!(read.mdn.disposition.is_positive());
        assert_eq!(read.mdn.final_recipient, "CLIENT");
        let mic = "oH0vz8s6oS7SoqF01XHsASudN05EPgouF1IFMSNsv30=, sha-256";
        assert_eq!(read.mdn.mic.unwrap().to_string(), mic);
    }
    let read = receipt(receive(incoming(&headers, &[], &strangers), &body, 0).0);
    assert!(matches!(read.signature, MdnSignature::Bad(_)), "{:?}", read.signature);
    let text = String::from_utf8(body).unwrap().replace("; processed", "; processeD");
    let read = receipt(receive(incoming(&headers, &[], &signers), text.as_bytes(), 0).0);
    assert!(matches!(read.signature, MdnSignature::Bad(_)), "altered: {:?}", read.signature);
}

fn unsigned_receipt() {
    let (headers, body) = captured("unsigned_mdn.yml");
    let signers = [certificate("client")];
    for seed in 0..5 {
        let read = receipt(receive(incoming(&headers, &[], &signers), &body, seed).0);
        assert!(matches!(read.signature, MdnSignature::None));
        assert!(!read.mdn.disposition.is_positive());
        assert_eq!(read.mdn.disposition.modifier_code().as_deref(), Some("unknown-trading-partner"));
        assert!(read.mdn.text.contains("Sender AS2 id SERVER is unknown"));
    }
}

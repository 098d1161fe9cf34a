//! Both ways, against OpenSSL, and what must not hold.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::make::*;
use super::verify::*;
use super::*;
use crate::algorithm::{Digest, SignatureScheme};
use crate::cert::{Certificate, Identity};
use crate::cms::ber::{self, Element, Reader};
use crate::cms::oid;
use crate::cms::testkit::{self, Bench, content, in_pieces};
use crate::crypto;
use crate::date::{UTC_TIME_END, utc_time};
use crate::error::{Error, ErrorKind, Lack};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};

const NOW: i64 = 1_790_000_000;

fn digests(bytes: &[u8]) -> Vec<(Digest, Vec<u8>)> {
    Digest::ALL
        .iter()
        .map(|digest| (*digest, crypto::hash(*digest, bytes).unwrap()))
        .collect()
}

fn params(identity: &Identity, digest: Digest, scheme: SignatureScheme) -> SignParams<'_> {
    SignParams {
        identity,
        digest,
        scheme,
        include_certificate: true,
        protect_algorithms: false,
    }
}

fn sign(params: &SignParams<'_>, bytes: &[u8]) -> Vec<u8> {
    let p7s = p7s(params, &crypto::hash(params.digest, bytes).unwrap(), NOW).unwrap();
    assert_eq!(p7s.len(), p7s_len(params).unwrap());
    p7s
}

fn verify(p7s: &[u8], bytes: &[u8], pinned: &[Certificate]) -> Result<Verified, Error> {
    verify_detached(p7s, &digests(bytes), pinned, &|digest| digest != Digest::Md5)
}

#[test]
fn every_key_scheme_and_digest() {
    let curves = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1].map(testkit::ec);
    let text = content(300);
    for identity in [testkit::rsa(), &curves[0], &curves[1], &curves[2]] {
        for scheme in SignatureScheme::ALL {
            for digest in [Digest::Sha1, Digest::Sha224, Digest::Sha256, Digest::Sha384, Digest::Sha512] {
                let signature = sign(&params(identity, digest, *scheme), &text);
                let pinned = [testkit::other().certificate().clone(), identity.certificate().clone()];
                let verified = verify(&signature, &text, &pinned).unwrap();
                assert_eq!((verified.digest, verified.has_attributes), (digest, true));
                assert_eq!(&verified.signer, identity.certificate());
            }
        }
    }
}

#[test]
fn failures_have_their_kinds() {
    let text = content(300);
    let signature = sign(&params(testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1), &text);
    let pinned = [testkit::rsa().certificate().clone()];
    let kind = |result: Result<Verified, Error>| result.unwrap_err().kind;
    assert_eq!(kind(verify(&signature, b"other text", &pinned)), ErrorKind::IntegrityCheckFailed);
    assert_eq!(
        kind(verify(&signature, &text, &[testkit::other().certificate().clone()])),
        ErrorKind::AuthenticationFailed
    );
    assert_eq!(kind(verify(&signature, &text, &[])), ErrorKind::AuthenticationFailed);
    let refused = verify_detached(&signature, &digests(&text), &[], &|digest| digest != Digest::Sha256);
    assert_eq!(kind(refused), ErrorKind::InsufficientMessageSecurity(Lack::Digest(Digest::Sha256)));
    assert_eq!(
        kind(verify_detached(&signature, &[], &pinned, &|_| true)),
        ErrorKind::UnexpectedProcessingError
    );
    for length in 0..signature.len() {
        assert_eq!(kind(verify(&signature[..length], &text, &pinned)), ErrorKind::AuthenticationFailed);
        assert!(peek(&signature[..length]).is_err());
    }
    for at in 0..signature.len() {
        let mut mutant = signature.clone();
        mutant[at] ^= 0x11;
        if let Ok(verified) = verify(&mutant, &text, &pinned) {
            // Versions, certificates and names prove nothing, so nothing depends on them.
            assert_eq!(&verified.signer, testkit::rsa().certificate(), "{at}");
        }
    }
    assert!(peek(&vec![0x30; MAX_P7S + 1]).unwrap_err().detail.contains("too large"));
}

#[test]
fn what_a_signature_says() {
    let signature = sign(&params(testkit::rsa(), Digest::Sha384, SignatureScheme::RsaPss), b"text");
    assert_eq!(peek(&signature).unwrap(), Some(Digest::Sha384));
    let has = |bytes: &[u8], part: &[u8]| memchr::memmem::find(bytes, part).is_some();
    let certificate = testkit::rsa().certificate();
    let time = ber::tlv(ber::UTC_TIME, &[utc_time(NOW).unwrap()]);
    assert!(has(&signature, certificate.der()) && has(&signature, &time));
    let bare = SignParams {
        include_certificate: false,
        ..params(testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1)
    };
    let signature = sign(&bare, b"text");
    assert!(!has(&signature, certificate.der()) && has(&signature, certificate.issuer_der()));
    assert_eq!(peek(&signature).unwrap(), Some(Digest::Sha256));
    assert!(p7s(&bare, &[0; 20], NOW).is_err() && p7s(&bare, &[0; 32], UTC_TIME_END).is_err());
}

#[test]
fn openssl_accepts_ours() {
    let ec = testkit::ec(Nid::SECP384R1);
    let text = content(70_000);
    for (identity, digest, scheme) in [
        (testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1),
        (testkit::rsa(), Digest::Sha1, SignatureScheme::RsaPkcs1),
        (testkit::rsa(), Digest::Sha512, SignatureScheme::RsaPss),
        (testkit::rsa(), Digest::Sha1, SignatureScheme::RsaPss),
        (&ec, Digest::Sha384, SignatureScheme::RsaPkcs1),
    ] {
        let bench = Bench::new(identity);
        bench.put("part", &text);
        bench.put("p7s", &sign(&params(identity, digest, scheme), &text));
        bench.openssl("cms -verify -binary -inform DER -in p7s -content part -CAfile cert.pem -purpose any -out out");
        assert!(bench.get("out") == text);
    }
}

/// A signature whose attributes say something about the algorithms that the SignerInfo does not.
fn signed_with(identity: &Identity, text: &[u8], said: &SignParams<'_>, done: &SignParams<'_>) -> Vec<u8> {
    let set = signed_attributes(said, &crypto::hash(done.digest, text).unwrap(), NOW).unwrap();
    let value = crypto::hash(done.digest, &set).unwrap();
    let signature = crypto::sign_digest(identity.key(), done.scheme, done.digest, &value).unwrap();
    signed_data(done, &set, &signature).unwrap()
}

#[test]
fn protected_algorithms_are_held_against_those_used() {
    let ec = testkit::ec(Nid::X9_62_PRIME256V1);
    let text = content(500);
    for (identity, scheme) in [
        (testkit::rsa(), SignatureScheme::RsaPkcs1),
        (testkit::rsa(), SignatureScheme::RsaPss),
        (&ec, SignatureScheme::RsaPkcs1),
    ] {
        let pinned = [identity.certificate().clone()];
        let protected = SignParams {
            protect_algorithms: true,
            ..params(identity, Digest::Sha256, scheme)
        };
        let p7s = sign(&protected, &text);
        assert!(verify(&p7s, &text, &pinned).is_ok());
        assert!(verify(&to_ber(&Reader::new(&p7s).next().unwrap()), &text, &pinned).is_ok());
        // Its own reader: the attribute stands there with its two algorithms.
        let bench = Bench::new(identity);
        bench.put("part", &text);
        bench.put("p7s", &p7s);
        bench.openssl("cms -verify -binary -inform DER -in p7s -content part -CAfile cert.pem -purpose any -out out");

        let of = |digest| SignParams { digest, ..protected };
        let other = signed_with(identity, &text, &of(Digest::Sha384), &of(Digest::Sha256));
        let error = verify(&other, &text, &pinned).unwrap_err();
        assert_eq!(error.kind, ErrorKind::AuthenticationFailed);
        assert!(error.detail.contains("algorithms"), "{}", error.detail);
    }
    // The same digest by another scheme.
    let scheme = |scheme| SignParams {
        protect_algorithms: true,
        ..params(testkit::rsa(), Digest::Sha256, scheme)
    };
    let (pkcs1, pss) = (scheme(SignatureScheme::RsaPkcs1), scheme(SignatureScheme::RsaPss));
    let other = signed_with(testkit::rsa(), &text, &pkcs1, &pss);
    let pinned = [testkit::rsa().certificate().clone()];
    assert_eq!(verify(&other, &text, &pinned).unwrap_err().kind, ErrorKind::AuthenticationFailed);
}

#[test]
fn no_signed_attribute_that_counts_stands_twice() {
    let text = b"text";
    let params = SignParams {
        protect_algorithms: true,
        ..params(testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1)
    };
    let set = signed_attributes(&params, &crypto::hash(params.digest, text).unwrap(), NOW).unwrap();
    let (mut members, mut once) = (Reader::new(&set).next().unwrap().reader(), Vec::new());
    while !members.is_empty() {
        once.push(members.next().unwrap().whole.to_vec());
    }
    let verify = |attributes: Vec<Vec<u8>>| {
        let set = ber::set_of(ber::SET, attributes);
        let value = crypto::hash(params.digest, &set).unwrap();
        let signature = crypto::sign_digest(testkit::rsa().key(), params.scheme, params.digest, &value).unwrap();
        let p7s = signed_data(&params, &set, &signature).unwrap();
        verify(&p7s, text, &[testkit::rsa().certificate().clone()])
    };
    assert!(once.len() == 4 && verify(once.clone()).is_ok());
    for again in &once {
        let error = verify([&once[..], std::slice::from_ref(again)].concat()).unwrap_err();
        assert!(error.detail.contains("twice"), "{}", error.detail);
    }
}

#[test]
fn we_accept_openssls() {
    let ec = testkit::ec(Nid::X9_62_PRIME256V1);
    let text = content(1000);
    for (identity, options, digest, attributes) in [
        (testkit::rsa(), "", Digest::Sha256, true),
        (testkit::rsa(), "-noattr -md sha1", Digest::Sha1, false),
        (testkit::rsa(), "-keyid -md sha512 -nocerts", Digest::Sha512, true),
        (testkit::rsa(), "-md sha3-256", Digest::Sha3_256, true),
        (testkit::rsa(), "-keyopt rsa_padding_mode:pss", Digest::Sha256, true),
        (
            testkit::rsa(),
            "-keyopt rsa_padding_mode:pss -keyopt rsa_pss_saltlen:7 -keyopt rsa_mgf1_md:sha384",
            Digest::Sha256,
            true,
        ),
        (&ec, "-md sha384", Digest::Sha384, true),
        (&ec, "-noattr -keyid", Digest::Sha256, false),
    ] {
        let bench = Bench::new(identity);
        bench.put("part", &text);
        bench.openssl(&format!(
            "cms -sign -binary -outform DER -in part -out p7s -signer cert.pem -inkey key.pem {options}"
        ));
        let p7s = bench.get("p7s");
        let verified = verify(&p7s, &text, &[identity.certificate().clone()]).expect(options);
        assert_eq!((verified.digest, verified.has_attributes), (digest, attributes), "{options}");
        assert_eq!(peek(&p7s).unwrap(), Some(digest));
        assert!(verify(&p7s, b"other", &[identity.certificate().clone()]).is_err());
    }
}

/// As long a salt as the key takes is what `openssl cms` makes: more than 255 bytes from RSA-3072 on.
#[test]
fn a_pss_salt_may_fill_the_modulus() {
    let key = PKey::from_rsa(openssl::rsa::Rsa::generate(3072).unwrap()).unwrap();
    let identity = testkit::identity(&key, "large", 12);
    let bench = Bench::new(&identity);
    let text = content(1000);
    bench.put("part", &text);
    let pinned = [identity.certificate().clone()];
    for salt in [350, 256, 255, 128, 127, 0] {
        bench.openssl(&format!(
            "cms -sign -binary -outform DER -in part -out p7s -signer cert.pem -inkey key.pem \
             -keyopt rsa_padding_mode:pss -keyopt rsa_pss_saltlen:{salt}"
        ));
        let p7s = bench.get("p7s");
        verify(&p7s, &text, &pinned).unwrap_or_else(|error| panic!("{salt}: {error}"));
        assert_eq!(verify(&p7s, b"x", &pinned).unwrap_err().kind, ErrorKind::IntegrityCheckFailed);
        let length = [&[0xa2, 4, 2, 2][..], &u16::to_be_bytes(salt)].concat();
        if salt >= 0x80 {
            let at = memchr::memmem::find(&p7s, &length).unwrap();
            // Another length is another signature; one that no modulus holds, or below zero, is none.
            for other in [salt - 1, salt + 1, 1025, 0x8000, 0xffff] {
                let mut bent = p7s.clone();
                bent[at + 4..at + 6].copy_from_slice(&other.to_be_bytes());
                assert_eq!(
                    verify(&bent, &text, &pinned).unwrap_err().kind,
                    ErrorKind::AuthenticationFailed,
                    "{salt} {other}"
                );
            }
        }
    }
}

/// A detached signature as RFC 8419 §3 describes it; without attributes it is over the content.
fn ed25519_p7s(key: &PKey<Private>, certificate: &Certificate, digest: Digest, text: &[u8], attributes: bool) -> Vec<u8> {
    let plain = params(testkit::rsa(), digest, SignatureScheme::RsaPkcs1);
    let set = signed_attributes(&plain, &crypto::hash(digest, text).unwrap(), NOW).unwrap();
    let mut signer = openssl::sign::Signer::new_without_digest(key).unwrap();
    let signature = signer.sign_oneshot_to_vec(if attributes { &set } else { text }).unwrap();
    let digest = ber::algorithm(oid::digest(digest), &[]);
    let info = [
        ber::integer(1),
        ber::tlv(
            ber::SEQUENCE,
            &[certificate.issuer_der(), &ber::tlv(ber::INTEGER, &[certificate.serial()])],
        ),
        digest.clone(),
        if attributes {
            [&[ber::context(0)], &set[1..]].concat()
        } else {
            Vec::new()
        },
        ber::algorithm(oid::ED25519, &[]),
        ber::tlv(ber::OCTET_STRING, &[signature]),
    ];
    let content = ber::tlv(ber::SEQUENCE, &[ber::oid(oid::DATA)]);
    let signers = ber::tlv(ber::SET, &[ber::tlv(ber::SEQUENCE, &info)]);
    let data = ber::tlv(ber::SEQUENCE, &[ber::integer(1), ber::tlv(ber::SET, &[digest]), content, signers]);
    ber::tlv(ber::SEQUENCE, &[ber::oid(oid::SIGNED_DATA), ber::tlv(ber::context(0), &[data])])
}

#[test]
fn ed25519_signatures_hold() {
    let key = PKey::generate_ed25519().unwrap();
    let certificate = testkit::certificate(&key, "ed", 11);
    let text = content(1000);
    let pinned = [testkit::rsa().certificate().clone(), certificate.clone()];
    let kind = |result: Result<Verified, Error>| result.unwrap_err().kind;
    for digest in [Digest::Sha512, Digest::Sha256] {
        let p7s = ed25519_p7s(&key, &certificate, digest, &text, true);
        for p7s in [p7s.clone(), to_ber(&Reader::new(&p7s).next().unwrap())] {
            let verified = verify(&p7s, &text, &pinned).unwrap();
            assert_eq!((verified.digest, &verified.signer), (digest, &certificate));
            assert_eq!(kind(verify(&p7s, b"other", &pinned)), ErrorKind::IntegrityCheckFailed);
            assert_eq!(kind(verify(&p7s, &text, &pinned[..1])), ErrorKind::AuthenticationFailed);
        }
        for at in [p7s.len() - 1, p7s.len() - 64, p7s.len() - 80] {
            let mut mutant = p7s.clone();
            mutant[at] ^= 1;
            assert!(verify(&mutant, &text, &pinned).is_err());
        }
    }
    let bare = ed25519_p7s(&key, &certificate, Digest::Sha512, &text, false);
    assert!(verify(&bare, &text, &pinned).unwrap_err().detail.contains("Ed25519"));
    let refused = Identity::new(certificate.der(), &key.private_key_to_pkcs8().unwrap());
    assert!(refused.unwrap_err().detail.contains("Ed25519"));
}

/// Every definite length made indefinite, every string cut in two: what a BER writer may do to a signature.
fn to_ber(element: &Element<'_>) -> Vec<u8> {
    if element.id == ber::OCTET_STRING {
        let (start, end) = element.body.split_at(element.body.len() / 2);
        let pieces = [ber::tlv(ber::OCTET_STRING, &[start]), ber::tlv(ber::OCTET_STRING, &[end])].concat();
        return [&[0x24, 0x80], &pieces[..], &[0, 0]].concat();
    }
    if element.id & 0x20 == 0 {
        return element.whole.to_vec();
    }
    let mut out = vec![element.id, 0x80];
    let mut children = element.reader();
    while !children.is_empty() {
        out.extend(to_ber(&children.next().unwrap()));
    }
    out.extend([0, 0]);
    out
}

#[test]
fn ber_signatures_hold() {
    let text = content(99);
    let signature = sign(&params(testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1), &text);
    let rewritten = to_ber(&Reader::new(&signature).next().unwrap());
    assert!(rewritten != signature);
    let pinned = [testkit::rsa().certificate().clone()];
    assert!(verify(&rewritten, &text, &pinned).is_ok());
    assert_eq!(verify(&rewritten, b"x", &pinned).unwrap_err().kind, ErrorKind::IntegrityCheckFailed);
}

#[test]
fn a_renamed_signer_is_found_by_its_key() {
    let text = content(99);
    let renamed = testkit::identity(testkit::rsa().key(), "renamed", 99);
    let signature = sign(&params(&renamed, Digest::Sha256, SignatureScheme::RsaPkcs1), &text);
    let pinned = [testkit::other().certificate().clone(), testkit::rsa().certificate().clone()];
    assert_eq!(&verify(&signature, &text, &pinned).unwrap().signer, testkit::rsa().certificate());
}

#[test]
fn opaque_signatures() {
    let bench = Bench::new(testkit::rsa());
    let text = content(150_000);
    bench.put("in", &text);
    let pinned = [testkit::rsa().certificate().clone()];
    let run = |bytes: &[u8], seed, pinned: &[Certificate]| {
        let mut verifier = OpaqueVerifier::new();
        let mut content = Vec::new();
        in_pieces(bytes, seed, |piece| verifier.push(piece, &mut content))?;
        verifier.finish(&mut content, pinned, &|_| true).map(|verified| (verified, content))
    };
    for options in ["", "-stream", "-noattr -md sha512"] {
        bench.openssl(&format!(
            "cms -sign -nodetach -binary -outform DER -in in -out out -signer cert.pem -inkey key.pem {options}"
        ));
        let mut message = bench.get("out");
        let (verified, found) = run(&message, 5, &pinned).expect(options);
        assert!(found == text);
        assert_eq!(verified.content_digest, crypto::hash(verified.digest, &text).unwrap());
        assert_eq!(run(&message, 6, &[]).unwrap_err().kind, ErrorKind::AuthenticationFailed);
        assert_eq!(
            run(&message[..message.len() - 1], 6, &pinned).unwrap_err().kind,
            ErrorKind::AuthenticationFailed
        );
        message[70_000] ^= 1;
        let expected = if options.contains("noattr") {
            ErrorKind::AuthenticationFailed
        } else {
            ErrorKind::IntegrityCheckFailed
        };
        assert_eq!(run(&message, 7, &pinned).unwrap_err().kind, expected);
    }
    let detached = sign(&params(testkit::rsa(), Digest::Sha256, SignatureScheme::RsaPkcs1), &text);
    assert_eq!(run(&detached, 1, &pinned).unwrap_err().kind, ErrorKind::AuthenticationFailed);
}

#[test]
fn a_signature_has_exactly_one_signer() {
    let bench = Bench::new(testkit::rsa());
    bench.put("other.pem", &testkit::pem(testkit::other().certificate()));
    bench.put("other.key", &testkit::other().key().private_key_to_pem_pkcs8().unwrap());
    let text = content(1000);
    bench.put("in", &text);
    let pinned = [testkit::rsa().certificate().clone(), testkit::other().certificate().clone()];
    let two = "-signer cert.pem -inkey key.pem -signer other.pem -inkey other.key";
    bench.openssl(&format!("cms -sign -binary -outform DER -in in -out out {two}"));
    let refused = verify(&bench.get("out"), &text, &pinned).unwrap_err();
    assert!(
        refused.kind == ErrorKind::AuthenticationFailed && refused.detail.contains("signer"),
        "{refused:?}"
    );
    bench.openssl(&format!("cms -sign -nodetach -binary -outform DER -in in -out out {two}"));
    let (mut verifier, mut found) = (OpaqueVerifier::new(), Vec::new());
    verifier.push(&bench.get("out"), &mut found).unwrap();
    assert!(verifier.finish(&mut found, &pinned, &|_| true).is_err());
}

/// A signature value over what PKCS #1 would pad, if its DigestInfo looked like this.
fn signed_info(info: &[u8]) -> Vec<u8> {
    let key = testkit::rsa().key().rsa().unwrap();
    let mut value = vec![0; key.size() as usize];
    let len = key.private_encrypt(info, &mut value, openssl::rsa::Padding::PKCS1).unwrap();
    value.truncate(len);
    value
}

/// as2.md Q55: NULL or absent, also inside DigestInfo. Anything else stays refused.
#[test]
fn a_digest_info_without_null_is_accepted() {
    let content = b"Content-Type: text/plain\r\n\r\nx";
    let digest = crypto::hash(Digest::Sha256, content).unwrap();
    let params = SignParams {
        identity: testkit::rsa(),
        digest: Digest::Sha256,
        scheme: SignatureScheme::RsaPkcs1,
        include_certificate: false,
        protect_algorithms: false,
    };
    let p7s = p7s(&params, &digest, 0).unwrap();
    // Made anew without attributes: the signed value then is the content's digest.
    let with = |value: &[u8]| {
        let signer = testkit::rsa().certificate();
        let algorithm = |oid: &[u8]| ber::algorithm(oid, &[]);
        let info = ber::tlv(
            ber::SEQUENCE,
            &[
                ber::integer(3),
                ber::tlv(0x80, &[signer.ski().unwrap()]),
                algorithm(oid::digest(Digest::Sha256)),
                algorithm(oid::RSA_ENCRYPTION),
                ber::tlv(ber::OCTET_STRING, &[value]),
            ],
        );
        let data = ber::tlv(
            ber::SEQUENCE,
            &[
                ber::integer(1),
                ber::tlv(ber::SET, &[algorithm(oid::digest(Digest::Sha256))]),
                ber::tlv(ber::SEQUENCE, &[ber::oid(oid::DATA)]),
                ber::tlv(ber::SET, &[info]),
            ],
        );
        ber::tlv(ber::SEQUENCE, &[ber::oid(oid::SIGNED_DATA), ber::tlv(ber::context(0), &[data])])
    };
    let verify = |p7s: &[u8]| {
        let pinned = [testkit::rsa().certificate().clone()];
        verify_detached(p7s, &[(Digest::Sha256, digest.clone())], &pinned, &|_| true)
    };
    verify(&p7s).unwrap();
    let info = |parameters: &[u8], value: &[u8]| {
        let algorithm = ber::algorithm(oid::digest(Digest::Sha256), parameters);
        ber::tlv(ber::SEQUENCE, &[algorithm, ber::tlv(ber::OCTET_STRING, &[value])])
    };
    verify(&with(&signed_info(&info(&[ber::NULL, 0], &digest)))).unwrap();
    verify(&with(&signed_info(&info(&[], &digest)))).unwrap();
    let longer = [info(&[], &digest), b"x".to_vec()].concat();
    let other = crypto::hash(Digest::Sha256, b"other").unwrap();
    for bad in [
        longer,
        info(&[], &other),
        info(&[], &digest[1..]),
        info(&[ber::INTEGER, 0], &digest),
        digest.clone(),
        info(&[], &digest)[1..].to_vec(),
    ] {
        assert!(verify(&with(&signed_info(&bad))).is_err(), "{bad:?}");
    }
    let mut value = signed_info(&info(&[], &digest));
    value[9] ^= 1;
    assert!(verify(&with(&value)).is_err());
    assert!(verify(&with(&value[1..])).is_err());
    assert!(verify(&with(&[])).is_err());
}

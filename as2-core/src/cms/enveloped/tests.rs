//! Both ways, against OpenSSL, and what must not open.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::open::*;
use super::recipient::*;
use super::seal::*;
use crate::algorithm::{Cipher, Digest, KeyTransport};
use crate::cert::Identity;
use crate::cms::ber;
use crate::cms::oid;
use crate::cms::testkit::{self, Bench, content, in_pieces};
use crate::crypto::{self, KeyChoice, Wrapping, decryption_failed};
use crate::error::{Error, ErrorKind, Lack};
use proptest::prelude::*;

thread_local! {
    /// Sabotage: tells at once that no key fitted, as a library without a random content key would.
    static TELLING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

pub(super) fn tell_if_told_to(choice: &KeyChoice) -> Result<(), Error> {
    if TELLING.get() && !choice.is_good() {
        return Err(decryption_failed("content key"));
    }
    Ok(())
}

const SENDING: [Cipher; 6] = [
    Cipher::Aes128Cbc,
    Cipher::Aes192Cbc,
    Cipher::Aes256Cbc,
    Cipher::Aes128Gcm,
    Cipher::Aes192Gcm,
    Cipher::Aes256Gcm,
];

const CURVES: [openssl::nid::Nid; 3] = [
    openssl::nid::Nid::X9_62_PRIME256V1,
    openssl::nid::Nid::SECP384R1,
    openssl::nid::Nid::SECP521R1,
];

fn plan(cipher: Cipher, key_transport: KeyTransport, plain_len: usize, form: Form) -> EnvelopePlan<'static> {
    EnvelopePlan {
        recipients: vec![testkit::rsa().certificate()],
        cipher,
        key_transport,
        plain_len: plain_len as u64,
        form,
    }
}

fn seal(plan: &EnvelopePlan<'_>, plain: &[u8], seed: u64) -> Vec<u8> {
    let mut sealer = Sealer::new(plan).unwrap();
    let length = sealer.content_length();
    let mut out = Vec::new();
    in_pieces(plain, seed, |piece| sealer.push(piece, &mut out)).unwrap();
    sealer.finish(&mut out).unwrap();
    assert_eq!(out.len() as u64, length);
    out
}

fn open_with(identities: &[Identity], policy: OpenPolicy, cms: &[u8], seed: u64) -> Result<(Vec<u8>, Opened), Error> {
    let mut opener = Opener::new(identities, policy);
    let mut plain = Vec::new();
    in_pieces(cms, seed, |piece| opener.push(piece, &mut plain))?;
    let opened = opener.finish(&mut plain)?;
    Ok((plain, opened))
}

fn open(cms: &[u8], seed: u64) -> Result<(Vec<u8>, Opened), Error> {
    open_with(
        &[testkit::other().clone(), testkit::rsa().clone()],
        OpenPolicy::default(),
        cms,
        seed,
    )
}

#[test]
fn every_combination_comes_back() {
    for cipher in SENDING {
        for transport in KeyTransport::ALL.iter().filter(|transport| transport.ecdh_digest().is_none()) {
            for form in [Form::Der, Form::Ber] {
                let plain = content(1000);
                let (found, opened) = open(&seal(&plan(cipher, *transport, 1000, form), &plain, 5), 9).unwrap();
                assert_eq!((found, opened.cipher, opened.key_transport), (plain, cipher, *transport));
                assert_eq!(&opened.recipient, testkit::rsa().certificate());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_size_in_any_pieces(size in prop_oneof![0usize..70, 65_500usize..65_560, 131_000usize..131_100], which in 0usize..6,
                              ber in any::<bool>(), seed in any::<u64>()) {
        let plain = content(size);
        let form = if ber { Form::Ber } else { Form::Der };
        let cms = seal(&plan(SENDING[which], KeyTransport::RsaPkcs1, size, form), &plain, seed);
        prop_assert_eq!(open(&cms, !seed).unwrap().0, plain);
    }

    #[test]
    fn any_bytes_are_only_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), seed in any::<u64>()) {
        prop_assert_eq!(open(&bytes, seed).unwrap_err().kind, ErrorKind::DecryptionFailed);
    }
}

#[test]
fn a_broken_plan_fails() {
    let plan = plan(Cipher::Aes256Cbc, KeyTransport::RsaPkcs1, 10, Form::Der);
    assert!(Sealer::new(&plan).unwrap().push(&[0; 11], &mut Vec::new()).is_err());
    let mut sealer = Sealer::new(&plan).unwrap();
    sealer.push(&[0; 9], &mut Vec::new()).unwrap();
    assert!(sealer.finish(&mut Vec::new()).is_err());
    let refused = |plan: EnvelopePlan<'_>| Sealer::new(&plan).err().unwrap().kind;
    assert_eq!(
        refused(EnvelopePlan {
            cipher: Cipher::TripleDesCbc,
            ..plan.clone()
        }),
        ErrorKind::Invalid
    );
    assert_eq!(
        refused(EnvelopePlan {
            recipients: Vec::new(),
            ..plan.clone()
        }),
        ErrorKind::Invalid
    );
    assert_eq!(
        refused(EnvelopePlan {
            cipher: Cipher::Aes128Ccm,
            ..plan.clone()
        }),
        ErrorKind::Invalid
    );
    assert_eq!(
        refused(EnvelopePlan {
            key_transport: KeyTransport::EcdhSha256,
            ..plan.clone()
        }),
        ErrorKind::Invalid
    );
}

#[test]
fn openssl_reads_ours() {
    let bench = Bench::new(testkit::rsa());
    let plain = content(200_000);
    for (cipher, transport, form) in [
        (Cipher::Aes256Cbc, KeyTransport::RsaPkcs1, Form::Der),
        (Cipher::Aes128Cbc, KeyTransport::OaepSha1, Form::Ber),
        (Cipher::Aes192Cbc, KeyTransport::OaepSha512, Form::Der),
        (Cipher::Aes256Gcm, KeyTransport::OaepSha256, Form::Der),
        (Cipher::Aes128Gcm, KeyTransport::RsaPkcs1, Form::Ber),
    ] {
        bench.put("in", &seal(&plan(cipher, transport, plain.len(), form), &plain, 3));
        bench.openssl("cms -decrypt -binary -inform DER -in in -out out -recip cert.pem -inkey key.pem");
        assert!(bench.get("out") == plain, "{cipher} {transport} {form:?}");
    }
}

#[test]
fn we_read_openssls() {
    let bench = Bench::new(testkit::rsa());
    bench.put("other.pem", &testkit::pem(testkit::other().certificate()));
    let plain = content(100_000);
    bench.put("in", &plain);
    let all = OpenPolicy { accept_3des: true };
    for (options, cipher, transport) in [
        ("-aes-256-cbc -recip cert.pem", Cipher::Aes256Cbc, KeyTransport::RsaPkcs1),
        ("-aes-128-cbc -stream -recip cert.pem", Cipher::Aes128Cbc, KeyTransport::RsaPkcs1),
        (
            "-aes-192-cbc -keyid -stream -recip cert.pem",
            Cipher::Aes192Cbc,
            KeyTransport::RsaPkcs1,
        ),
        ("-aes-256-gcm -recip cert.pem", Cipher::Aes256Gcm, KeyTransport::RsaPkcs1),
        ("-aes-192-gcm -recip cert.pem", Cipher::Aes192Gcm, KeyTransport::RsaPkcs1),
        (
            "-aes-128-gcm -stream -recip other.pem -recip cert.pem",
            Cipher::Aes128Gcm,
            KeyTransport::RsaPkcs1,
        ),
        ("-des3 -recip cert.pem", Cipher::TripleDesCbc, KeyTransport::RsaPkcs1),
        (
            "-aes256 -recip cert.pem -keyopt rsa_padding_mode:oaep",
            Cipher::Aes256Cbc,
            KeyTransport::OaepSha1,
        ),
        (
            "-aes256 -recip cert.pem -keyopt rsa_padding_mode:oaep -keyopt rsa_oaep_md:sha256 -keyopt rsa_mgf1_md:sha1",
            Cipher::Aes256Cbc,
            KeyTransport::OaepSha256,
        ),
    ] {
        bench.openssl(&format!("cms -encrypt -binary -outform DER -in in -out out {options}"));
        let (found, opened) = open_with(&[testkit::rsa().clone()], all, &bench.get("out"), 4).unwrap();
        assert!(found == plain, "{options}");
        assert_eq!((opened.cipher, opened.key_transport), (cipher, transport), "{options}");
    }
}

#[test]
fn ec_certificates_receive_content_keys() {
    let plain = content(70_000);
    for curve in CURVES {
        let identity = testkit::ec(curve);
        let bench = Bench::new(&identity);
        for (cipher, transport, form) in [
            (Cipher::Aes256Cbc, KeyTransport::RsaPkcs1, Form::Der),
            (Cipher::Aes128Gcm, KeyTransport::EcdhSha384, Form::Ber),
            (Cipher::Aes192Cbc, KeyTransport::EcdhSha512, Form::Ber),
        ] {
            let plan = EnvelopePlan {
                recipients: vec![identity.certificate()],
                ..plan(cipher, transport, plain.len(), form)
            };
            let sealed = seal(&plan, &plain, 3);
            let both = [testkit::rsa().clone(), identity.clone()];
            let (found, opened) = open_with(&both, OpenPolicy::default(), &sealed, 5).unwrap();
            let expected = KeyTransport::EcdhSha256;
            let expected = if transport == KeyTransport::RsaPkcs1 { expected } else { transport };
            assert!(found == plain);
            assert_eq!((opened.cipher, opened.key_transport), (cipher, expected));
            assert_eq!(&opened.recipient, identity.certificate());
            let stranger = [testkit::ec(curve), testkit::rsa().clone()];
            let refused = open_with(&stranger, OpenPolicy::default(), &sealed, 5);
            assert_eq!(refused.unwrap_err().kind, ErrorKind::DecryptionFailed);
            bench.put("in", &sealed);
            bench.openssl("cms -decrypt -binary -inform DER -in in -out out -recip cert.pem -inkey key.pem");
            assert!(bench.get("out") == plain, "{curve:?} {cipher} {transport}");
        }
    }
    let ours = testkit::ec(CURVES[0]);
    let receipt_only = EnvelopePlan {
        recipients: vec![ours.certificate()],
        ..plan(Cipher::Aes128Cbc, KeyTransport::EcdhSha1, 1, Form::Der)
    };
    assert_eq!(Sealer::new(&receipt_only).err().unwrap().kind, ErrorKind::Invalid);
}

#[test]
fn openssls_key_agreements_are_read() {
    let plain = content(5000);
    for curve in CURVES {
        let identity = testkit::ec(curve);
        let bench = Bench::new(&identity);
        bench.put("in", &plain);
        bench.put("rsa.pem", &testkit::pem(testkit::rsa().certificate()));
        bench.put("stranger.pem", &testkit::pem(testkit::ec(curve).certificate()));
        for (options, cipher, transport) in [
            ("-aes256 -recip cert.pem", Cipher::Aes256Cbc, KeyTransport::EcdhSha1),
            (
                "-aes128 -stream -keyid -recip cert.pem -keyopt ecdh_kdf_md:sha256",
                Cipher::Aes128Cbc,
                KeyTransport::EcdhSha256,
            ),
            (
                "-aes192 -recip cert.pem -keyopt ecdh_kdf_md:sha384",
                Cipher::Aes192Cbc,
                KeyTransport::EcdhSha384,
            ),
            (
                "-aes-256-gcm -recip cert.pem -keyopt ecdh_kdf_md:sha512 -keyopt ecdh_cofactor_mode:1",
                Cipher::Aes256Gcm,
                KeyTransport::EcdhSha512,
            ),
            (
                "-aes256 -keyid -recip rsa.pem -recip stranger.pem -recip cert.pem -keyopt ecdh_kdf_md:sha224",
                Cipher::Aes256Cbc,
                KeyTransport::EcdhSha224,
            ),
        ] {
            bench.openssl(&format!("cms -encrypt -binary -outform DER -in in -out out {options}"));
            let sealed = bench.get("out");
            let (found, opened) = open_with(std::slice::from_ref(&identity), OpenPolicy::default(), &sealed, 4).expect(options);
            assert!(found == plain, "{options}");
            assert_eq!((opened.cipher, opened.key_transport), (cipher, transport), "{options}");
        }
    }
}

#[test]
fn rsa_and_ec_recipients_of_one_message() {
    let plain = content(300);
    let theirs = testkit::ec(CURVES[1]);
    let ours = testkit::identity(testkit::ec(CURVES[0]).key(), "ours", 10);
    for form in [Form::Der, Form::Ber] {
        let plan = EnvelopePlan {
            recipients: vec![
                testkit::other().certificate(),
                theirs.certificate(),
                ours.certificate(),
                testkit::rsa().certificate(),
            ],
            ..plan(Cipher::Aes256Gcm, KeyTransport::OaepSha256, plain.len(), form)
        };
        let sealed = seal(&plan, &plain, 8);
        for identity in [testkit::other(), testkit::rsa(), &ours, &theirs] {
            let (found, opened) = open_with(std::slice::from_ref(identity), OpenPolicy::default(), &sealed, 2).unwrap();
            assert_eq!((&found, &opened.recipient), (&plain, identity.certificate()));
        }
        // The same key under another name is found by trial.
        let renamed = testkit::identity(ours.key(), "renamed", 99);
        let (found, _) = open_with(&[renamed], OpenPolicy::default(), &sealed, 2).unwrap();
        assert_eq!(found, plain);
    }
}

#[test]
fn recipients_that_we_are_not_are_named() {
    let curve = testkit::ec(CURVES[0]);
    let key_id = |identity: &Identity| format!("key id {}", crate::hex(identity.certificate().ski().unwrap()));
    for (identity, options, wanted) in [
        (testkit::rsa(), "", "serial 80c0ffee of O=Tests, CN=rsa".to_owned()),
        (testkit::rsa(), "-keyid", key_id(testkit::rsa())),
        (&curve, "-keyid", key_id(&curve)),
    ] {
        let bench = Bench::new(identity);
        bench.put("in", &content(100));
        bench.openssl(&format!(
            "cms -encrypt -binary -outform DER -in in -out out -aes256 {options} -recip cert.pem"
        ));
        let sealed = bench.get("out");
        let named = |identities: &[Identity]| {
            let (mut opener, mut plain) = (Opener::new(identities, OpenPolicy::default()), Vec::new());
            // It opens, or it does not.
            let _ = opener.push(&sealed, &mut plain).and_then(|()| opener.finish(&mut plain));
            opener.strangers().to_vec()
        };
        assert_eq!(named(&[]), [wanted.as_str()]);
        assert_eq!(named(&[testkit::other().clone()]), [wanted.as_str()]);
        assert!(named(&[testkit::other().clone(), identity.clone()]).is_empty(), "{wanted}");
    }
}

#[test]
fn recipients_stand_in_the_order_given() {
    let theirs = testkit::ec(CURVES[0]);
    for (recipients, transport) in [
        ([testkit::rsa(), testkit::other()], KeyTransport::RsaPkcs1),
        ([testkit::other(), testkit::rsa()], KeyTransport::RsaPkcs1),
        ([&theirs, testkit::rsa()], KeyTransport::EcdhSha256),
    ] {
        let plan = EnvelopePlan {
            recipients: recipients.iter().map(|identity| identity.certificate()).collect(),
            ..plan(Cipher::Aes128Cbc, transport, 40, Form::Der)
        };
        let sealed = seal(&plan, &[7; 40], 1);
        let place = |identity: &Identity| {
            let name = identity.certificate().issuer_der();
            sealed.windows(name.len()).position(|window| window == name).unwrap()
        };
        assert!(place(recipients[0]) < place(recipients[1]));
        for identity in recipients {
            let (plain, _) = open_with(std::slice::from_ref(identity), OpenPolicy::default(), &sealed, 2).unwrap();
            assert_eq!(plain, [7; 40]);
        }
    }
    // A first recipient has what was asked for, or nothing.
    let plan = EnvelopePlan {
        recipients: vec![testkit::rsa().certificate()],
        ..plan(Cipher::Aes128Cbc, KeyTransport::EcdhSha256, 40, Form::Der)
    };
    assert!(Sealer::new(&plan).is_err());
}

#[test]
fn mutants_of_key_agreements_fail_alike_or_not_at_all() {
    let identity = testkit::ec(CURVES[0]);
    let plan = EnvelopePlan {
        recipients: vec![identity.certificate()],
        ..plan(Cipher::Aes256Gcm, KeyTransport::EcdhSha256, 20, Form::Der)
    };
    let sealed = seal(&plan, &[5; 20], 1);
    for at in 0..sealed.len() {
        let mut mutant = sealed.clone();
        mutant[at] ^= 0x11;
        match open_with(std::slice::from_ref(&identity), OpenPolicy::default(), &mutant, 3) {
            Err(error) => assert_eq!(error.kind, ErrorKind::DecryptionFailed, "{at}"),
            Ok((plain, _)) => assert_eq!(plain, [5; 20], "{at}"),
        }
        let cut = open_with(std::slice::from_ref(&identity), OpenPolicy::default(), &sealed[..at], 77);
        assert_eq!(cut.unwrap_err().kind, ErrorKind::DecryptionFailed);
    }
}

/// An AuthEnvelopedData as other products write it: the parts that our sealer does not make.
fn auth_enveloped(cipher: Cipher, key: &[u8], parameters: &[Vec<u8>], pieces: Option<usize>, sealed: &[u8], after: &[Vec<u8>]) -> Vec<u8> {
    let recipients = ber::tlv(
        ber::SET,
        &[transport_info(testkit::rsa().certificate(), KeyTransport::RsaPkcs1, key).unwrap()],
    );
    let algorithm = ber::algorithm(oid::cipher(cipher), &ber::tlv(ber::SEQUENCE, parameters));
    let content = match pieces {
        None => ber::tlv(0x80, &[sealed]),
        Some(size) => {
            let pieces: Vec<Vec<u8>> = sealed.chunks(size).map(|piece| ber::tlv(ber::OCTET_STRING, &[piece])).collect();
            [&[0xa0, 0x80], &pieces.concat()[..], &[0, 0]].concat()
        }
    };
    let inner = ber::tlv(ber::SEQUENCE, &[ber::oid(oid::DATA), algorithm, content]);
    let data = ber::tlv(ber::SEQUENCE, &[ber::integer(0), recipients, inner, after.concat()]);
    ber::tlv(
        ber::SEQUENCE,
        &[ber::oid(oid::AUTH_ENVELOPED_DATA), ber::tlv(ber::context(0), &[data])],
    )
}

#[test]
fn ccm_is_read_with_and_without_a_length() {
    for (cipher, nonce_len, tag_len, stated, size) in [
        (Cipher::Aes128Ccm, 12, 12, false, 100_000),
        (Cipher::Aes192Ccm, 13, 4, true, 17),
        (Cipher::Aes256Ccm, 7, 16, true, 70_000),
        (Cipher::Aes256Ccm, 12, 12, false, 1),
    ] {
        let (key, nonce, plain) = (vec![7; cipher.key_len()], vec![8; nonce_len], content(size));
        let (sealed, tag) = crypto::seal_ccm(&key, &nonce, tag_len, &plain);
        let mut parameters = vec![ber::tlv(ber::OCTET_STRING, &[&nonce])];
        if stated {
            parameters.push(ber::integer(tag_len as u8));
        }
        let after = [ber::tlv(ber::OCTET_STRING, &[&tag])];
        for pieces in [None, Some(1000)] {
            let mut message = auth_enveloped(cipher, &key, &parameters, pieces, &sealed, &after);
            let (found, opened) = open(&message, 6).unwrap();
            assert!(found == plain);
            assert_eq!(opened.cipher, cipher);
            let last = message.len() - 1;
            message[last] ^= 1;
            assert_eq!(open(&message, 6).unwrap_err().kind, ErrorKind::DecryptionFailed);
            message[last] ^= 1;
            message[last - tag_len - 3] ^= 1;
            assert_eq!(open(&message, 6).unwrap_err().kind, ErrorKind::DecryptionFailed);
        }
        let attributes = ber::tlv(ber::context(1), &[ber::tlv(ber::SEQUENCE, &[ber::oid(oid::DATA)])]);
        let message = auth_enveloped(cipher, &key, &parameters, None, &sealed, &[attributes, after[0].clone()]);
        assert!(open(&message, 6).unwrap_err().detail.contains("CCM"));
    }
    for bad in [
        vec![ber::tlv(ber::OCTET_STRING, &[[0; 6]])],
        vec![ber::tlv(ber::OCTET_STRING, &[[0; 14]])],
        vec![ber::tlv(ber::OCTET_STRING, &[[0; 12]]), ber::integer(5)],
        vec![ber::tlv(ber::OCTET_STRING, &[[0; 12]]), ber::integer(18)],
    ] {
        assert!(cipher_parameters(Cipher::Aes128Ccm, &ber::tlv(ber::SEQUENCE, &bad)).is_err());
    }
}

#[test]
fn ccm_without_a_length_is_held_up_to_its_limit() {
    let parameters = [ber::tlv(ber::OCTET_STRING, &[[8; 12]])];
    let message = auth_enveloped(
        Cipher::Aes128Ccm,
        &[7; 16],
        &parameters,
        Some(60_000),
        &vec![0; MAX_CCM_HELD + 1],
        &[],
    );
    let mut opener = Opener::new(&[testkit::rsa().clone()], OpenPolicy::default());
    let mut plain = Vec::new();
    let error = message
        .chunks(100_000)
        .find_map(|piece| opener.push(piece, &mut plain).err())
        .unwrap();
    assert!(error.kind == ErrorKind::DecryptionFailed && plain.is_empty(), "{error}");
    assert!(error.detail.contains("CCM"), "{error}");
}

#[test]
fn authenticated_attributes_of_gcm_are_covered() {
    for (cipher, size, tag_len) in [
        (Cipher::Aes128Gcm, 100_000, 16),
        (Cipher::Aes256Gcm, 0, 12),
        (Cipher::Aes192Gcm, 31, 13),
    ] {
        let (key, nonce, plain) = (vec![7; cipher.key_len()], [8; 12], content(size));
        let attribute = |kind: &[u8], value: Vec<u8>| ber::tlv(ber::SEQUENCE, &[ber::oid(kind), ber::tlv(ber::SET, &[value])]);
        let members = vec![
            attribute(oid::CONTENT_TYPE, ber::oid(oid::DATA)),
            attribute(oid::SIGNING_TIME, ber::tlv(ber::UTC_TIME, &[b"260101000000Z"])),
        ];
        let covered = ber::set_of(ber::SET, members.clone());
        let (sealed, tag) = crypto::seal_gcm(&key, &nonce, &covered, &plain);
        let parameters = [ber::tlv(ber::OCTET_STRING, &[nonce]), ber::integer(tag_len as u8)];
        let tag = ber::tlv(ber::OCTET_STRING, &[&tag[..tag_len]]);
        // In whatever order they come: what is covered is their DER.
        for attributes in [members.concat(), [members[1].clone(), members[0].clone()].concat()] {
            let after = [ber::tlv(ber::context(1), &[attributes]), tag.clone()];
            for pieces in [None, Some(777)] {
                let mut message = auth_enveloped(cipher, &key, &parameters, pieces, &sealed, &after);
                let (found, opened) = open(&message, 6).unwrap();
                assert!(found == plain && opened.cipher == cipher);
                // A digit of the time, then a byte of the tag.
                for back in [tag_len + 8, 1] {
                    let at = message.len() - back;
                    message[at] ^= 1;
                    assert_eq!(open(&message, 6).unwrap_err().kind, ErrorKind::DecryptionFailed);
                    message[at] ^= 1;
                }
            }
        }
        let without = auth_enveloped(cipher, &key, &parameters, None, &sealed, std::slice::from_ref(&tag));
        assert_eq!(open(&without, 6).unwrap_err().kind, ErrorKind::DecryptionFailed);
    }
}

#[test]
fn a_key_that_does_not_fit_never_opens() {
    // A random content key leaves a plausible padding one time in 256.
    let sealed = seal(&plan(Cipher::Aes128Cbc, KeyTransport::RsaPkcs1, 20, Form::Der), &[7; 20], 20);
    for _ in 0..800 {
        let opened = open_with(&[testkit::other().clone()], OpenPolicy::default(), &sealed, 1000);
        assert_eq!(opened.unwrap_err().kind, ErrorKind::DecryptionFailed);
    }
}

#[test]
fn an_unnamed_recipient_is_tried() {
    // The same key under another name, as after a renewal with a kept key.
    let renamed = testkit::identity(testkit::rsa().key(), "renamed", 99);
    let plain = content(50);
    let sealed = seal(&plan(Cipher::Aes256Cbc, KeyTransport::RsaPkcs1, 50, Form::Der), &plain, 1);
    let (found, opened) = open_with(&[testkit::other().clone(), renamed.clone()], OpenPolicy::default(), &sealed, 1).unwrap();
    assert_eq!((found, &opened.recipient), (plain, renamed.certificate()));
    let nobody = open_with(&[testkit::other().clone()], OpenPolicy::default(), &sealed, 1);
    assert_eq!(nobody.unwrap_err().kind, ErrorKind::DecryptionFailed);
    assert_eq!(
        open_with(&[], OpenPolicy::default(), &sealed, 1).unwrap_err().kind,
        ErrorKind::DecryptionFailed
    );
}

#[test]
fn every_truncation_and_every_extension_is_an_error() {
    for (cipher, form) in [(Cipher::Aes256Cbc, Form::Der), (Cipher::Aes128Gcm, Form::Ber)] {
        let mut sealed = seal(&plan(cipher, KeyTransport::RsaPkcs1, 33, form), &content(33), 1);
        for length in 0..sealed.len() {
            assert_eq!(
                open(&sealed[..length], 77).unwrap_err().kind,
                ErrorKind::DecryptionFailed,
                "{length}"
            );
        }
        sealed.extend(b"\r\n");
        open(&sealed, 1).expect("a line end is no content");
        sealed.push(7);
        assert_eq!(open(&sealed, 1).unwrap_err().kind, ErrorKind::DecryptionFailed);
    }
}

#[test]
fn mutants_fail_alike_or_not_at_all() {
    for (cipher, form) in [(Cipher::Aes256Cbc, Form::Der), (Cipher::Aes256Gcm, Form::Ber)] {
        let sealed = seal(&plan(cipher, KeyTransport::RsaPkcs1, 100, form), &content(100), 1);
        for at in 0..sealed.len() {
            let mut mutant = sealed.clone();
            mutant[at] ^= 0x11;
            match open(&mutant, 3) {
                Err(error) => assert_eq!(error.kind, ErrorKind::DecryptionFailed, "{at}"),
                // CBC does not notice a changed block; a name or a version that changed does not matter.
                Ok((plain, _)) => assert!(cipher == Cipher::Aes256Cbc || plain == content(100), "{at}"),
            }
        }
    }
}

/// A wrapped key that does not fit is not told from one that does before the content is read.
#[test]
fn a_wrong_key_shows_only_at_the_end() {
    let mut sealed = seal(&plan(Cipher::Aes256Cbc, KeyTransport::RsaPkcs1, 5000, Form::Der), &content(5000), 1);
    // The 256 bytes of the wrapped key follow `04 82 01 00`.
    let at = sealed.windows(4).position(|window| window == [4, 0x82, 1, 0]).unwrap() + 4;
    for byte in [0, 100, 255] {
        sealed[at + byte] ^= 1;
        let mut opener = Opener::new(&[testkit::rsa().clone()], OpenPolicy::default());
        let mut plain = Vec::new();
        opener.push(&sealed, &mut plain).unwrap();
        assert!(plain.len() > 4900 && plain[..4000] != content(5000)[..4000]);
        // One random key in 256 leaves something that looks like padding.
        if let Err(error) = opener.finish(&mut plain) {
            assert_eq!(error.kind, ErrorKind::DecryptionFailed);
        }
        sealed[at + byte] ^= 1;
    }
}

/// Mutants of one message, by turns: in the first class the wrapped key has good padding around a wrong content key, in the
/// second the padding is broken or of another length, as in Bleichenbacher's and Klíma's attacks (RFC 3218 §2.3).
fn mutants(count: usize, size: usize) -> Vec<(usize, Vec<u8>)> {
    let plan = plan(Cipher::Aes256Cbc, KeyTransport::RsaPkcs1, size, Form::Der);
    let mut sealed = seal(&plan, &content(size), 1);
    let at = sealed.windows(4).position(|window| window == [4, 0x82, 1, 0]).unwrap() + 4;
    // The 32 bytes of a content key follow the zero at 223.
    let public = testkit::rsa().certificate().public_key().rsa().unwrap();
    let mut mutants = Vec::new();
    for n in 0..count {
        let mut block = [0; 256];
        crypto::random(&mut block).unwrap();
        block.iter_mut().for_each(|byte| *byte |= 1);
        (block[0], block[1], block[223]) = (0, 2, 0);
        match (n % 2, n / 2 % 4) {
            (0, _) => {}
            (_, 0) => block[1] = 1,
            (_, 1) => (block[223], block[239]) = (1, 0),
            (_, 2) => block[100] = 0,
            _ => block[223] = 1,
        }
        let wrapped = &mut sealed[at..at + 256];
        public.public_encrypt(&block, wrapped, openssl::rsa::Padding::NONE).unwrap();
        mutants.push((n % 2, sealed.clone()));
    }
    mutants
}

#[test]
fn a_thousand_mutants_have_one_answer() {
    let answers = |mutants: &[(usize, Vec<u8>)]| {
        let mut answers: Vec<(ErrorKind, usize)> = Vec::new();
        for (_, mutant) in mutants {
            let mut opener = Opener::new(&[testkit::rsa().clone()], OpenPolicy::default());
            let mut plain = Vec::new();
            let pushed = opener.push(mutant, &mut plain);
            let seen = plain.len();
            let Err(error) = pushed.and_then(|()| opener.finish(&mut plain)) else {
                // A wrong key with good padding leaves a good end of the content one time in 256; it is the message's own.
                continue;
            };
            if !answers.contains(&(error.kind, seen)) {
                answers.push((error.kind, seen));
            }
        }
        answers
    };
    let mutants = mutants(1000, 100);
    assert_eq!(answers(&mutants), [(ErrorKind::DecryptionFailed, 96)]);
    // The control: without the random content key the padding shows before the content.
    TELLING.set(true);
    let told = answers(&mutants);
    TELLING.set(false);
    assert_eq!(told.len(), 2, "{told:?}");
}

/// The p-value of the two-sample Kolmogorov-Smirnov test, by its asymptotic series.
fn same_distribution(mut a: Vec<u128>, mut b: Vec<u128>) -> f64 {
    a.sort_unstable();
    b.sort_unstable();
    let below = |sorted: &[u128], value: u128| sorted.partition_point(|x| *x <= value) as f64 / sorted.len() as f64;
    let distances = a.iter().chain(&b).map(|value| (below(&a, *value) - below(&b, *value)).abs());
    let distance = distances.fold(0.0, f64::max);
    let size = (a.len() * b.len()) as f64 / (a.len() + b.len()) as f64;
    let lambda = (size.sqrt() + 0.12 + 0.11 / size.sqrt()) * distance;
    if lambda < 0.2 {
        return 1.0;
    }
    let terms = (1..=100).map(|k| {
        let term = (-2.0 * lambda * lambda * f64::from(k * k)).exp();
        if k % 2 == 1 { term } else { -term }
    });
    (2.0 * terms.sum::<f64>()).clamp(0.0, 1.0)
}

/// Nanoseconds of each mutant, by class.
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
fn latencies(mutants: &[(usize, Vec<u8>)]) -> (Vec<u128>, Vec<u128>) {
    let (mut good, mut broken) = (Vec::new(), Vec::new());
    let mut plain = Vec::with_capacity(1 << 20);
    for (class, mutant) in mutants {
        plain.clear();
        let mut opener = Opener::new(&[testkit::rsa().clone()], OpenPolicy::default());
        let start = std::time::Instant::now();
        let _ = opener.push(mutant, &mut plain).and_then(|()| opener.finish(&mut plain).map(|_| ()));
        let took = start.elapsed().as_nanos();
        if *class == 0 { good.push(took) } else { broken.push(took) }
    }
    (good, broken)
}

#[test]
#[ignore = "measures time: wants a machine that does nothing else"]
fn a_thousand_mutants_have_one_latency() {
    let mutants = mutants(1000, 64 * 1024);
    latencies(&mutants[..100]);
    // Three measurements: chance alone is below 0.01 once in a hundred, a leak each time.
    let best = (0..3).map(|_| {
        let (good, broken) = latencies(&mutants);
        same_distribution(good, broken)
    });
    let best = best.fold(0.0, f64::max);
    TELLING.set(true);
    let (good, broken) = latencies(&mutants);
    TELLING.set(false);
    let control = same_distribution(good, broken);
    assert!(best > 0.01, "the classes differ: p = {best}");
    assert!(control < 0.01, "the control does not show: p = {control}");
}

#[test]
fn forbidden_ciphers_are_named() {
    let bench = Bench::new(testkit::rsa());
    bench.put("in", b"text");
    bench.openssl("cms -encrypt -binary -outform DER -in in -out out -des3 -recip cert.pem");
    // Without any key of ours the answer is the same: no key is used.
    for identities in [vec![], vec![testkit::rsa().clone()]] {
        let refused = open_with(&identities, OpenPolicy::default(), &bench.get("out"), 1);
        assert_eq!(refused.unwrap_err().kind, ErrorKind::InsufficientMessageSecurity(Lack::TripleDes));
    }
}

#[test]
fn oaep_parameters_are_never_guessed() {
    let label = ber::tlv(ber::context(2), &[ber::algorithm(oid::P_SPECIFIED, &[ber::OCTET_STRING, 1, b'x'])]);
    let unknown = ber::tlv(ber::context(0), &[ber::algorithm(&[1, 2, 3], &[])]);
    for parameters in [
        vec![],
        vec![ber::NULL, 0],
        vec![0x30, 5],
        ber::tlv(ber::SEQUENCE, &[label]),
        ber::tlv(ber::SEQUENCE, &[unknown]),
    ] {
        assert!(wrapping(oid::RSAES_OAEP, &parameters).is_err(), "{parameters:x?}");
    }
    let (found, _) = wrapping(oid::RSAES_OAEP, &oaep_parameters(Digest::Sha1)).unwrap();
    assert_eq!(
        found,
        Wrapping::Oaep {
            digest: Digest::Sha1,
            mgf: Digest::Sha1
        }
    );
}

#[test]
fn floods_of_empty_pieces_are_refused() {
    let plain = content(20);
    let mut sealed = seal(&plan(Cipher::Aes256Cbc, KeyTransport::RsaPkcs1, 20, Form::Ber), &plain, 1);
    let at = sealed.len() - 10 - 34;
    let few = [0x24, 0x80, 0x04, 0, 0, 0].repeat(100);
    sealed.splice(at..at, few.iter().copied());
    assert_eq!(open(&sealed, 1).unwrap().0, plain);
    sealed.splice(at..at, few.repeat(5));
    assert_eq!(open(&sealed, 1).unwrap_err().kind, ErrorKind::DecryptionFailed);
}

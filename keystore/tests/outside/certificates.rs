//! Making, reading and exporting certificates, judged by openssl and keytool.

use std::sync::OnceLock;

use keystore::{CertInfo, Format, KeyPair, KeySpec, Subject, identity, import, import_alias, of_one_key, pkcs12, request, to_pem};

use crate::{Bench, NOW, error, fixture, has};

fn subject(cn: &str) -> Subject {
    Subject {
        cn: cn.into(),
        org: Some("Müller & Söhne, \"GmbH\"".into()),
        email: Some("as2@example.com".into()),
        country: Some("de".into()),
    }
}

/// One key pair for the tests that do not care which.
fn pair() -> &'static KeyPair {
    static PAIR: OnceLock<KeyPair> = OnceLock::new();
    PAIR.get_or_init(|| identity(KeySpec::Rsa2048, &subject("ALICE"), NOW, 730).unwrap())
}

/// A root, an intermediate and a leaf made by openssl, and the leaf's key.
fn chain() -> &'static (Bench, [Vec<u8>; 3]) {
    static CHAIN: OnceLock<(Bench, [Vec<u8>; 3])> = OnceLock::new();
    CHAIN.get_or_init(|| {
        let bench = Bench::new();
        bench.write("ca.ext", "basicConstraints=critical,CA:TRUE\n");
        bench.run("openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -subj /CN=Root -days 30");
        for (name, issuer, extra) in [("inter", "root", "-extfile ca.ext"), ("leaf", "inter", "")] {
            bench.run(&format!(
                "openssl req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ));
            bench.run(&format!(
                "openssl x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial -days 30 -out {name}.pem {extra}"
            ));
        }
        let ders = ["leaf", "inter", "root"].map(|name| {
            bench.run(&format!("openssl x509 -in {name}.pem -outform DER -out {name}.der"));
            bench.read(&format!("{name}.der"))
        });
        (bench, ders)
    })
}

#[test]
fn openssl_accepts_every_kind_of_identity() {
    for spec in KeySpec::ALL.into_iter().filter(|s| *s != KeySpec::Rsa4096) {
        let pair = identity(spec, &subject("ALICE"), NOW, 730).unwrap();
        let bench = Bench::new();
        bench.write("cert.pem", to_pem("CERTIFICATE", &pair.certificate).as_bytes());
        bench.write("key.pem", to_pem("PRIVATE KEY", &pair.pkcs8).as_bytes());
        let text = bench.run("openssl x509 -in cert.pem -noout -text -nameopt utf8,sep_comma_plus");
        assert!(text.contains("CN=ALICE"), "{text}");
        assert!(text.contains("Version: 3"), "{text}");
        assert!(text.contains("Subject Key Identifier"), "{text}");
        assert!(!text.contains("critical"), "{text}");
        bench.run("openssl verify -CAfile cert.pem -attime 1795478401 cert.pem");
        assert_eq!(
            bench.run("openssl pkey -in key.pem -pubout"),
            bench.run("openssl x509 -in cert.pem -noout -pubkey"),
            "{spec}"
        );
        bench.run("openssl pkey -in key.pem -check -noout");
        // What a partner does with it: encrypt to it and verify with it.
        bench.write("payload", "UNA:+.? 'UNB+UNOC:3+A+B'");
        bench.run("openssl cms -sign -in payload -signer cert.pem -inkey key.pem -outform DER -out signed -nodetach -binary");
        bench.run("openssl cms -verify -in signed -inform DER -CAfile cert.pem -attime 1795478401 -binary -out verified");
        assert_eq!(bench.read("payload"), bench.read("verified"));
        bench.run("openssl cms -encrypt -aes256 -in payload -outform DER -out sealed -binary cert.pem");
        bench.run("openssl cms -decrypt -in sealed -inform DER -inkey key.pem -recip cert.pem -out opened -binary");
        assert_eq!(bench.read("payload"), bench.read("opened"));
    }
}

#[test]
fn a_ca_signs_our_request_and_the_key_is_known_again() {
    let (ca, _) = chain();
    for (spec, cn, digest) in [
        (KeySpec::Rsa2048, "ALICE", "sha256"),
        (KeySpec::EcP384, "edi.example.com", "SHA384"),
        (KeySpec::EcP521, "192.0.2.7", "SHA512"),
    ] {
        let pair = identity(spec, &subject(cn), NOW, 730).unwrap();
        let der = request(&pair.certificate, &pair.pkcs8).unwrap();
        ca.write("ours.csr", to_pem("CERTIFICATE REQUEST", &der).as_bytes());
        let text = ca.run("openssl req -in ours.csr -verify -noout -text -nameopt utf8,sep_comma_plus");
        let subject = ca.run("openssl req -in ours.csr -noout -subject -nameopt RFC2253");
        ca.write("ours.pem", to_pem("CERTIFICATE", &pair.certificate).as_bytes());
        assert_eq!(
            subject,
            ca.run("openssl x509 -in ours.pem -noout -subject -nameopt RFC2253"),
            "{spec}"
        );
        assert!(
            text.contains("verify OK") && text.to_lowercase().contains(&digest.to_lowercase()),
            "{text}"
        );
        let host = match cn {
            "ALICE" => "",
            "192.0.2.7" => "IP Address:192.0.2.7",
            name => &format!("DNS:{name}"),
        };
        assert!(
            text.contains(host) && text.contains("Subject Alternative Name") != host.is_empty(),
            "{text}"
        );
        ca.run("openssl x509 -req -in ours.csr -CA root.pem -CAkey root.key -CAcreateserial -days 30 -outform DER -out issued.der");
        let issued = ca.read("issued.der");
        assert!(of_one_key(&issued, &pair.certificate) && !of_one_key(&issued, &self::pair().certificate));
        assert!(!of_one_key(&issued, b"no certificate") && !CertInfo::from_der(&issued).unwrap().self_signed);
    }
}

#[test]
fn names_are_utf8_and_the_serial_positive() {
    let bench = Bench::new();
    bench.write("cert.der", &pair().certificate);
    let parsed = bench.run("openssl asn1parse -inform DER -in cert.der");
    assert!(parsed.contains("UTF8STRING"), "{parsed}");
    assert!(!parsed.contains("T61STRING") && !parsed.contains("BMPSTRING"), "{parsed}");
    for _ in 0..3 {
        let info = CertInfo::from_der(&identity(KeySpec::EcP256, &subject("B"), NOW, 1).unwrap().certificate).unwrap();
        assert_eq!(info.serial_hex.len(), 32, "{}", info.serial_hex);
        assert!(!info.serial_hex.starts_with('-'));
    }
}

#[test]
fn a_host_name_or_address_gets_its_alternative_name() {
    let has_san = |cn: &str, san: &str| {
        let bench = Bench::new();
        let pair = identity(
            KeySpec::EcP256,
            &Subject {
                cn: cn.into(),
                ..Subject::default()
            },
            NOW,
            1,
        )
        .unwrap();
        bench.write("cert.der", &pair.certificate);
        bench.run("openssl x509 -inform DER -in cert.der -noout -text").contains(san)
    };
    assert!(has_san("as2.example.com", "DNS:as2.example.com"));
    assert!(has_san("localhost", "DNS:localhost"));
    assert!(has_san("127.0.0.1", "IP Address:127.0.0.1"));
    assert!(!has_san("ALICE", "Alternative"));
    assert!(!has_san("a.b, c", "Alternative"));
}

#[test]
fn senseless_subjects_are_refused() {
    let with = |change: fn(&mut Subject)| {
        let mut subject = subject("A");
        change(&mut subject);
        error(identity(KeySpec::EcP256, &subject, NOW, 1))
    };
    assert!(with(|s| s.cn = "  ".into()).contains("common name"));
    assert!(with(|s| s.cn = "x".repeat(65)).contains("64"));
    assert!(with(|s| s.country = Some("DEU".into())).contains("two letters"));
    assert!(with(|s| s.email = Some("nobody".into())).contains("mail"));
    assert!(with(|s| s.org = Some("a\nb".into())).contains("control"));
    assert!(error(identity(KeySpec::EcP256, &subject("A"), NOW, 0)).contains("days"));
    assert!("rsa 1024".parse::<KeySpec>().is_err());
    assert_eq!("RSA 4096".parse::<KeySpec>().unwrap(), KeySpec::Rsa4096);
    assert_eq!("p-256".parse::<KeySpec>().unwrap(), KeySpec::EcP256);
}

#[test]
fn info_says_what_openssl_says() {
    let bench = Bench::new();
    let der = &pair().certificate;
    bench.write("cert.der", der);
    let info = CertInfo::from_der(der).unwrap();
    let field = |option: &str| {
        let out = bench.run(&format!("openssl x509 -inform DER -in cert.der -noout {option}"));
        out.trim().split_once('=').unwrap().1.replace(':', "").to_ascii_lowercase()
    };
    assert_eq!(info.sha256, field("-fingerprint -sha256"));
    assert_eq!(info.sha1, field("-fingerprint -sha1"));
    assert_eq!(info.serial_hex, field("-serial"));
    assert_eq!(
        info.subject,
        "C=DE, O=Müller & Söhne, \"GmbH\", CN=ALICE, emailAddress=as2@example.com"
    );
    assert_eq!(info.subject, info.issuer);
    assert_eq!((info.not_before, info.not_after), (NOW - 3600, NOW + 730 * 86_400));
    assert_eq!(info.key, "RSA 2048");
    assert!(info.self_signed && info.key_usage.is_empty());
    let (_, [leaf, inter, _]) = chain();
    assert!(!CertInfo::from_der(leaf).unwrap().self_signed);
    assert_eq!(CertInfo::from_der(inter).unwrap().issuer, "CN=Root");
}

#[test]
fn odd_certificates_are_shown() {
    let bench = Bench::new();
    let make = |extra: &str| {
        bench.run(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout k -outform DER -out c {extra}"
        ));
        bench.read("c")
    };
    let negative = CertInfo::from_der(&make("-subj /CN=N -set_serial -5 -days 1")).unwrap();
    assert_eq!(negative.serial_hex, "-05");
    assert_eq!(negative.key, "EC P-384");
    assert_eq!(CertInfo::from_der(&make("-subj / -set_serial 0")).unwrap().subject, "");
    let long = CertInfo::from_der(&make("-subj /CN=L -set_serial 0x0102030405060708090a0b0c0d0e0f101112131415161718")).unwrap();
    assert_eq!(long.serial_hex, "0102030405060708090a0b0c0d0e0f101112131415161718");
    let usage = CertInfo::from_der(&make("-subj /CN=U -addext keyUsage=digitalSignature,keyCertSign")).unwrap();
    assert_eq!(usage.key_usage, ["digitalSignature", "keyCertSign"]);
    let control = CertInfo::from_der(&make("-utf8 -subj /CN=evil\u{1b}[2J")).unwrap();
    assert!(!control.subject.contains('\u{1b}'), "{:?}", control.subject);
}

#[test]
fn one_certificate_comes_through_every_form_unchanged() {
    let der = &pair().certificate;
    let pem = to_pem("CERTIFICATE", der);
    let body: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    let utf16: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(pem.encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    let forms: Vec<(&str, Vec<u8>)> = vec![
        ("der", der.clone()),
        ("pem", pem.as_bytes().to_vec()),
        ("crlf", pem.replace('\n', "\r\n").into_bytes()),
        ("cr", pem.replace('\n', "\r").into_bytes()),
        ("blanks", pem.replace('\n', "  \n\t ").into_bytes()),
        ("mark", [b"\xef\xbb\xbf", pem.as_bytes()].concat()),
        ("utf-16", utf16),
        (
            "mail",
            format!("Dear partner,\r\nhere it is:\r\n\r\n{}\r\nRegards\r\n", *pem).into_bytes(),
        ),
        ("latin-1 around", [b"Gr\xfc\xdfe\n", pem.as_bytes()].concat()),
        (
            "one line",
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----").into_bytes(),
        ),
        ("bare base64", body.into_bytes()),
        ("twice", format!("{}{}", *pem, *pem).into_bytes()),
    ];
    for (name, bytes) in forms {
        let imported = import(&bytes, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(imported.certificates, std::slice::from_ref(der), "{name}");
        assert!(imported.key.is_none());
        assert!(error(imported.key_pair().map(|_| ())).contains("without its private key"));
    }
}

#[test]
fn chains_come_leaf_first_whatever_their_order() {
    let (bench, [leaf, inter, root]) = chain();
    let wanted = vec![leaf.clone(), inter.clone(), root.clone()];
    for order in [[root, inter, leaf], [inter, leaf, root], [leaf, inter, root]] {
        let text: String = order.map(|der| to_pem("CERTIFICATE", der).to_string()).concat();
        assert_eq!(import(text.as_bytes(), None).unwrap().certificates, wanted);
    }
    let mixed = bench.text("root.pem") + &bench.text("leaf.key") + &bench.text("leaf.pem") + &bench.text("inter.pem");
    let imported = import(mixed.as_bytes(), None).unwrap();
    assert_eq!(imported.certificates, wanted);
    assert!(imported.key_pair().is_ok());
    let wrong = bench.text("root.pem") + &bench.text("leaf.key");
    assert!(error(import(wrong.as_bytes(), None)).contains("belongs to none"));
}

#[test]
fn a_ca_that_issued_nothing_in_the_file_is_not_the_certificate() {
    let (bench, [leaf, inter, _]) = chain();
    let ec = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout other.key -days 30";
    bench.run(&format!("{ec} -subj /CN=Other -out other.pem"));
    let other = der_of(bench, "other.pem");
    // Alone it is what was meant: self-signed certificates of partners often say that they are a CA's.
    assert_eq!(
        import(&bench.read("other.pem"), None).unwrap().certificates,
        std::slice::from_ref(&other)
    );
    let wanted = [leaf.clone(), inter.clone(), other.clone()];
    for order in [[&other, leaf, inter], [inter, &other, leaf]] {
        let text: String = order.map(|der| to_pem("CERTIFICATE", der).to_string()).concat();
        assert_eq!(import(text.as_bytes(), None).unwrap().certificates, wanted);
    }
    // In DER the shorter one comes first.
    bench.run("openssl crl2pkcs7 -nocrl -certfile leaf.pem -certfile inter.pem -certfile other.pem -outform DER -out other.p7b");
    assert_eq!(import(&bench.read("other.p7b"), None).unwrap().certificates, wanted);
}

#[test]
fn of_several_certificates_of_no_ca_none_is_guessed() {
    // Plain `openssl req -x509` makes ones that say they are a CA's.
    ["FALSE", "TRUE"].into_iter().for_each(none_is_guessed);
}

fn none_is_guessed(ca: &str) {
    let bench = Bench::new();
    let make = |name: &str, subject: &str, usage: &str| {
        bench.run(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.pem -days 30 -subj /CN={subject} -addext keyUsage={usage} -addext basicConstraints=critical,CA:{ca}"
        ));
        bench.text(&format!("{name}.pem"))
    };
    let sign = make("sign", "acme", "digitalSignature");
    for (name, subject, usage) in [("seal", "acme", "keyAgreement"), ("other", "other", "digitalSignature")] {
        let second = make(name, subject, usage);
        for both in [format!("{sign}{second}"), format!("{second}{sign}")] {
            let words = error(import(both.as_bytes(), None));
            assert!(words.contains("CN=acme (digitalSignature)"), "{words}");
            assert!(
                words.contains(&format!("CN={subject} ({usage})")) && words.contains("only one of them"),
                "{words}"
            );
        }
        // With a key it is plain which one is meant.
        let keyed = format!("{sign}{second}{}", bench.text(&format!("{name}.key")));
        let imported = import(keyed.as_bytes(), None).unwrap();
        assert_eq!(imported.key_pair().unwrap().0, der_of(&bench, &format!("{name}.pem")));
    }
    if !has("keytool") {
        return;
    }
    for name in ["sign", "seal"] {
        bench.run(&format!(
            "keytool -importcert -noprompt -keystore t.jks -storetype JKS -storepass changeit -alias {name} -file {name}.pem"
        ));
    }
    let words = error(import(&bench.read("t.jks"), Some("changeit")));
    assert!(words.contains("--alias NAME (seal, sign)"), "{words}");
    assert!(import_alias(&bench.read("t.jks"), Some("changeit"), "seal").is_ok());
}

#[test]
fn what_windows_calls_a_certificate_is_read_as_what_it_is() {
    let (bench, [leaf, inter, root]) = chain();
    bench.run("openssl crl2pkcs7 -nocrl -certfile root.pem -certfile inter.pem -certfile leaf.pem -outform DER -out w.p7b");
    bench.run("openssl pkcs12 -export -in leaf.pem -inkey leaf.key -certfile inter.pem -passout pass:x -out w.p12");
    let encoded = |file: &str| to_pem("CERTIFICATE", &bench.read(file));
    let chain = import(encoded("w.p7b").as_bytes(), None).unwrap();
    assert_eq!(chain.certificates, [leaf.clone(), inter.clone(), root.clone()]);
    let pair = import(encoded("w.p12").as_bytes(), Some("x")).unwrap();
    assert_eq!(pair.key_pair().unwrap().0, leaf.as_slice());
    assert_eq!(pair.certificates.len(), 2);
    assert!(error(import(encoded("w.p12").as_bytes(), None)).contains("protected by a passphrase"));
}

#[test]
fn p7b_is_read_in_pem_der_and_ber() {
    let (bench, [leaf, inter, root]) = chain();
    bench.run("openssl crl2pkcs7 -nocrl -certfile root.pem -certfile inter.pem -certfile leaf.pem -out c.p7b");
    bench.run("openssl crl2pkcs7 -nocrl -certfile root.pem -certfile inter.pem -certfile leaf.pem -outform DER -out c.der.p7b");
    // With a streamed content openssl writes indefinite lengths.
    bench.write("payload", "x");
    bench.run("openssl cms -sign -stream -in payload -binary -nodetach -signer leaf.pem -inkey leaf.key -certfile inter.pem -certfile root.pem -outform DER -out ber.p7b");
    assert!(bench.read("ber.p7b").starts_with(&[0x30, 0x80]), "this test wants BER");
    for (file, format) in [("c.p7b", Format::Pem), ("c.der.p7b", Format::P7b), ("ber.p7b", Format::P7b)] {
        let imported = import(&bench.read(file), None).unwrap();
        assert_eq!(imported.format, format);
        assert_eq!(imported.certificates.first(), Some(leaf), "{file}");
        assert!(imported.certificates.contains(inter) || file == "ber.p7b");
        assert!(imported.certificates.contains(root));
    }
    bench.run("openssl crl2pkcs7 -nocrl -outform DER -out empty.p7b");
    assert!(error(import(&bench.read("empty.p7b"), None)).contains("neither a certificate"));
}

#[test]
fn private_keys_of_every_pem_form_are_read() {
    let (bench, [leaf, ..]) = chain();
    bench.run("openssl rsa -in leaf.key -traditional -out pkcs1.key");
    bench.run("openssl rsa -in leaf.key -traditional -aes256 -passout pass:secret -out old.key");
    bench.run("openssl rsa -in leaf.key -traditional -des3 -passout pass:secret -out old3des.key");
    bench.run("openssl pkcs8 -topk8 -in leaf.key -passout pass:secret -out new.key");
    bench.run("openssl pkcs8 -topk8 -in leaf.key -passout pass:secret -v1 PBE-SHA1-3DES -out v1.key");
    bench.run("openssl pkcs8 -topk8 -in leaf.key -passout pass:secret -outform DER -out new.der");
    bench.run("openssl pkcs8 -topk8 -nocrypt -in leaf.key -outform DER -out plain.der");
    bench.run("openssl rsa -in leaf.key -traditional -outform DER -out pkcs1.der");
    let plain = bench.read("plain.der");
    for name in ["leaf.key", "pkcs1.key", "plain.der", "pkcs1.der"] {
        let imported = import(&bench.read(name), None).unwrap();
        assert_eq!(imported.key.as_ref().unwrap().as_slice(), plain, "{name}");
        assert!(error(imported.certificate().map(|_| ())).contains("private key without its certificate"));
    }
    for name in ["old.key", "old3des.key", "new.key", "v1.key", "new.der"] {
        let bytes = bench.read(name);
        assert_eq!(import(&bytes, Some("secret")).unwrap().key.unwrap().as_slice(), plain, "{name}");
        assert!(error(import(&bytes, None)).contains("protected by a passphrase"), "{name}");
        assert!(error(import(&bytes, Some("wrong"))).contains("wrong passphrase"), "{name}");
        assert!(error(import(&bytes, Some(""))).contains("wrong passphrase"), "{name}");
        assert!(error(import(&bytes, Some("a\0b"))).contains("NUL"), "{name}");
        let crlf = crate::text(&bytes).replace('\n', "\r\n");
        if name.ends_with("key") {
            let both = crlf + &bench.text("leaf.pem");
            let imported = import(both.as_bytes(), Some("secret")).unwrap();
            assert_eq!(imported.key_pair().unwrap(), (leaf.as_slice(), plain.as_slice()), "{name}");
        }
    }
    bench.run("openssl ecparam -name prime256v1 -genkey -out ec.key");
    assert!(import(&bench.read("ec.key"), None).unwrap().key.is_some());
}

#[test]
fn pkcs12_of_openssl_is_read_modern_and_legacy() {
    let (bench, [leaf, inter, root]) = chain();
    bench.write("cas.pem", bench.text("inter.pem") + &bench.text("root.pem"));
    let wanted = vec![leaf.clone(), inter.clone(), root.clone()];
    let key = import(&bench.read("leaf.key"), None).unwrap().key.unwrap();
    let kinds = [
        ("modern", ""),
        ("legacy", "-legacy"),
        ("3des", "-certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES -macalg sha1"),
        ("rc2-40", "-legacy -certpbe PBE-SHA1-RC2-40 -keypbe PBE-SHA1-3DES -macalg sha1"),
        ("aes128", "-certpbe AES-128-CBC -keypbe AES-128-CBC -macalg sha512"),
        ("open certificates", "-certpbe NONE"),
        ("no mac", "-nomac"),
    ];
    for (name, options) in kinds {
        bench.run(&format!("openssl pkcs12 -export -in leaf.pem -inkey leaf.key -certfile cas.pem -name alice -passout pass:s3cret -out {name}.p12 {options}", name = name.replace(' ', "-")));
        let bytes = bench.read(&format!("{}.p12", name.replace(' ', "-")));
        let imported = import(&bytes, Some("s3cret")).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(imported.format, Format::Pkcs12);
        assert_eq!(imported.certificates, wanted, "{name}");
        assert_eq!(imported.key.unwrap(), key, "{name}");
        let words = error(import(&bytes, Some("wrong")));
        assert!(
            words.contains("wrong passphrase") || words.contains("passphrase is wrong"),
            "{name}: {words}"
        );
        assert!(error(import(&bytes, None)).contains("protected by a passphrase"), "{name}");
        assert!(import(&bytes[..bytes.len() - 1], Some("s3cret")).is_err());
    }
}

#[test]
fn pkcs12_without_key_or_without_passphrase_is_read() {
    let (bench, [leaf, ..]) = chain();
    bench.run("openssl pkcs12 -export -nokeys -in leaf.pem -passout pass:x -out bare.p12");
    let imported = import(&bench.read("bare.p12"), Some("x")).unwrap();
    assert_eq!(imported.certificates, std::slice::from_ref(leaf));
    assert!(imported.key.is_none());
    bench.run("openssl pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass: -out open.p12");
    assert!(import(&bench.read("open.p12"), None).unwrap().key_pair().is_ok());
}

#[test]
fn a_bomb_of_iterations_is_refused_before_it_is_computed() {
    let (bench, _) = chain();
    bench.run("openssl pkcs8 -topk8 -in leaf.key -passout pass:x -iter 12345678 -outform DER -out slow.der");
    let started = std::time::Instant::now();
    let words = error(import(&bench.read("slow.der"), Some("x")));
    assert!(words.contains("rounds"), "{words}");
    bench.run("openssl pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass:x -iter 1000 -out fine.p12");
    let mut bytes = bench.read("fine.p12");
    // 1000 is 02 02 03 e8; 0x02 0x02 cannot grow in place, so take the largest two-byte count to show which ones are read.
    let at = bytes.windows(4).rposition(|w| w == [2, 2, 3, 0xe8]).unwrap();
    bytes[at + 2] = 0x7f;
    assert!(import(&bytes, Some("x")).is_err(), "the MAC is over another count");
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn what_is_no_certificate_is_named() {
    let (bench, _) = chain();
    for empty in [&b""[..], b" \r\n\n"] {
        assert!(error(import(empty, None)).contains("empty"));
    }
    let csr = error(import(&bench.read("leaf.csr"), None));
    assert!(csr.contains("CSR"), "{csr}");
    bench.run("openssl pkey -in leaf.key -pubout -out pub.pem");
    assert!(error(import(&bench.read("pub.pem"), None)).contains("bare public key"));
    for nonsense in [&b"hello"[..], &[0; 1000], b"PK\x03\x04zip", b"\x30\x03\x02\x01\x00"] {
        let words = error(import(nonsense, None));
        assert!(words.contains("PKCS#12 (.p12, .pfx) or JKS"), "{words}");
    }
    assert!(error(import(&vec![b'A'; 5 << 20], None)).contains("larger than"));
    let cut = &pair().certificate[..500];
    assert!(error(import(cut, None)).contains("cut off"));
    let pem = to_pem("CERTIFICATE", &pair().certificate);
    assert!(error(import(&pem.as_bytes()[..600], None)).contains("end line"));
    let jceks = error(import(b"\xce\xce\xce\xce\0\0\0\x02", None));
    assert!(jceks.contains("keytool -importkeystore"), "{jceks}");
    bench.run("openssl genpkey -algorithm ed25519 -out ed.key");
    let secret = bench.text("ed.key");
    let body = secret.lines().nth(1).unwrap();
    let broken = format!("-----BEGIN PRIVATE KEY-----\n{body}!!\n-----END PRIVATE KEY-----\n");
    let words = error(import(broken.as_bytes(), None));
    assert!(!words.contains(body), "an error repeats the key: {words}");
}

#[test]
fn no_damaged_file_panics() {
    let (bench, [leaf, ..]) = chain();
    bench.run("openssl pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass:x -iter 1 -out small.p12");
    bench.run("openssl crl2pkcs7 -nocrl -certfile leaf.pem -outform DER -out small.p7b");
    for bytes in [
        leaf.clone(),
        bench.read("small.p12"),
        bench.read("small.p7b"),
        bench.read("leaf.pem"),
    ] {
        for step in 0..160 {
            let at = step * bytes.len() / 160;
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (step % 8);
            let _ = import(&damaged, Some("x"));
            let _ = CertInfo::from_der(&damaged);
            let _ = import(&bytes[..at], Some("x"));
        }
    }
}

#[test]
fn an_exported_p12_opens_in_openssl_and_keytool() {
    let (bench, [leaf, inter, root]) = chain();
    let key = import(&bench.read("leaf.key"), None).unwrap().key.unwrap();
    let chain = [leaf.clone(), inter.clone(), root.clone()];
    let p12 = pkcs12("alice", &key, &chain, "pässword 1").unwrap();
    let bench = Bench::new();
    bench.write("out.p12", p12.as_slice());
    bench.write("password", "pässword 1\n");
    let out = bench.run("openssl pkcs12 -in out.p12 -passin file:password -nodes");
    assert_eq!(out.matches("BEGIN CERTIFICATE").count(), 3);
    assert!(out.contains("friendlyName: alice"), "{out}");
    assert_eq!(import(&p12, Some("pässword 1")).unwrap().certificates, chain);
    assert!(error(pkcs12("a", &key, &chain, "")).contains("empty"));
    if has("keytool") {
        let p12 = pkcs12("alice", &key, &chain, "password1").unwrap();
        bench.write("java.p12", p12.as_slice());
        let list = bench.run("keytool -list -v -keystore java.p12 -storepass password1");
        assert!(
            list.contains("PrivateKeyEntry") && list.contains("Certificate chain length: 3"),
            "{list}"
        );
    }
}

#[test]
fn java_stores_are_read() {
    if !has("keytool") {
        return;
    }
    let (bench, [leaf, ..]) = chain();
    for kind in ["JKS", "PKCS12"] {
        let keytool = |rest: &str| {
            bench.run(&format!(
                "keytool -keystore {kind}.store -storetype {kind} -storepass changeit -noprompt {rest}"
            ))
        };
        keytool("-genkeypair -alias Alice -keyalg RSA -keysize 2048 -dname CN=Alice -validity 30");
        keytool("-importcert -alias partner -file leaf.pem");
        let alice = bench
            .try_run(&format!(
                "keytool -exportcert -keystore {kind}.store -storepass changeit -alias alice"
            ))
            .stdout;
        let bytes = bench.read(&format!("{kind}.store"));
        let imported = import(&bytes, Some("changeit")).unwrap();
        assert_eq!(imported.format, if kind == "JKS" { Format::Jks } else { Format::Pkcs12 });
        assert_eq!(imported.key_pair().unwrap().0, alice, "{kind}");
        assert_eq!(imported.certificates.len(), 1, "the partner's certificate is not of the chain");
        assert_eq!(
            import_alias(&bytes, Some("changeit"), "PARTNER").unwrap().certificates,
            std::slice::from_ref(leaf)
        );
        let unknown = error(import_alias(&bytes, Some("changeit"), "bob"));
        assert!(unknown.contains("alice") && unknown.contains("partner"), "{unknown}");
        assert!(error(import(&bytes, Some("wrong"))).contains("wrong passphrase"));
        assert!(error(import(&bytes, None)).contains("protected by a passphrase"));
        keytool("-genkeypair -alias second -keyalg EC -groupname secp256r1 -dname CN=Second -validity 30");
        let bytes = bench.read(&format!("{kind}.store"));
        let several = error(import(&bytes, Some("changeit")));
        assert!(several.contains("alice, second"), "{several}");
        let second = import_alias(&bytes, Some("changeit"), "second").unwrap();
        assert_eq!(CertInfo::from_der(second.certificate().unwrap()).unwrap().subject, "CN=Second");
        for at in (0..bytes.len()).step_by(97) {
            let _ = import(&bytes[..at], Some("changeit"));
        }
    }
}

/// One key with two certificates: `old.pem` has expired, `new.pem` is its renewal.
fn renewed() -> Bench {
    let bench = Bench::new();
    bench.run("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem");
    for (name, from, to) in [
        ("old", "20250101000000Z", "20260101000000Z"),
        ("new", "20260101000000Z", "20280101000000Z"),
    ] {
        bench.run("openssl req -new -key key.pem -subj /CN=renewed -out request.csr");
        // -not_before came with openssl 3.4; the ca command has always had its like.
        bench.write("index.txt", "");
        bench.write(
            "ca.conf",
            "[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n",
        );
        bench.run(&format!(
            "openssl ca -config ca.conf -batch -notext -selfsign -keyfile key.pem -in request.csr -startdate {from} -enddate {to} -out {name}.pem"
        ));
    }
    bench
}

fn der_of(bench: &Bench, file: &str) -> Vec<u8> {
    import(&bench.read(file), None).unwrap().certificates.remove(0)
}

#[test]
fn an_encryption_that_is_not_read_is_named_instead_of_a_wrong_passphrase() {
    let bench = Bench::new();
    bench.run("openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -subj /CN=a -out a.pem -days 30");
    let legacy = "-provider legacy -provider default";
    for (name, options) in [
        ("PBE-MD5-DES", "-v1 PBE-MD5-DES"),
        ("PBE-SHA1-RC2-64", "-v1 PBE-SHA1-RC2-64"),
        ("PBE-SHA1-RC4-128", "-v1 PBE-SHA1-RC4-128"),
        ("PBE-SHA1-RC2-40", "-v1 PBE-SHA1-RC2-40"),
        ("RC2", "-v2 rc2"),
    ] {
        bench.run(&format!(
            "openssl pkcs8 -topk8 {legacy} -in key.pem -passout pass:s3cret {options} -out sealed.pem"
        ));
        let words = error(import(&bench.read("sealed.pem"), Some("s3cret")));
        assert!(words.contains(&format!("with {name},")) && words.contains("aes256"), "{words}");
    }
    for name in ["PBE-SHA1-RC2-128", "PBE-SHA1-RC4-128", "PBE-SHA1-RC4-40"] {
        bench.run(&format!(
            "openssl pkcs12 -export -legacy -in a.pem -inkey key.pem -passout pass:s3cret -certpbe {name} -keypbe {name} -macalg sha1 -out a.p12"
        ));
        let words = error(import(&bench.read("a.p12"), Some("s3cret")));
        assert!(words.contains(&format!("with {name},")) && words.contains("-legacy"), "{words}");
        assert!(error(import(&bench.read("a.p12"), Some("wrong"))).contains("wrong passphrase"));
    }
}

#[test]
fn a_block_in_one_line_and_a_text_that_begins_with_0_are_read() {
    let pem = to_pem("CERTIFICATE", &pair().certificate);
    let joined = format!("{0} {0}", pem.trim().replace('\n', " "));
    for text in [
        joined,
        pem.replace('\n', "\\n"),
        format!("0 days left\n{}", pem.as_str()),
        format!("00\n{}", pem.as_str()),
    ] {
        assert_eq!(
            import(text.as_bytes(), None).unwrap().certificates,
            [pair().certificate.clone()],
            "{text}"
        );
    }
}

#[test]
fn of_a_renewed_certificate_the_new_one_is_taken() {
    let bench = renewed();
    let (old, new) = (der_of(&bench, "old.pem"), der_of(&bench, "new.pem"));
    for order in [["old.pem", "new.pem"], ["new.pem", "old.pem"]] {
        let both: Vec<u8> = order.iter().flat_map(|name| bench.read(name)).collect();
        let imported = import(&both, None).unwrap();
        assert_eq!(imported.certificates.first(), Some(&new), "{order:?}");
        let with_key = [both, bench.read("key.pem")].concat();
        assert_eq!(import(&with_key, None).unwrap().key_pair().unwrap().0, new, "{order:?}");
    }
    if !has("keytool") {
        return;
    }
    for (alias, name) in [("as2-2025", "old"), ("as2-2026", "new")] {
        bench.run(&format!(
            "openssl pkcs12 -export -inkey key.pem -in {name}.pem -name {alias} -passout pass:changeit -out {name}.p12"
        ));
        for kind in ["JKS", "PKCS12"] {
            bench.run(&format!(
                "keytool -importkeystore -noprompt -srckeystore {name}.p12 -srcstorepass changeit -destkeystore both.{kind} -deststoretype {kind} -deststorepass changeit"
            ));
        }
    }
    for kind in ["JKS", "PKCS12"] {
        let bytes = bench.read(&format!("both.{kind}"));
        for (alias, wanted) in [("as2-2025", &old), ("as2-2026", &new)] {
            let imported = import_alias(&bytes, Some("changeit"), alias).unwrap();
            assert_eq!(imported.key_pair().unwrap().0, wanted.as_slice(), "{kind} {alias}");
        }
        assert_eq!(import(&bytes, Some("changeit")).unwrap().key_pair().unwrap().0, new, "{kind}");
    }
}

#[test]
fn a_jks_key_with_a_passphrase_of_its_own_shuts_no_other() {
    if !has("keytool") {
        return;
    }
    let bench = Bench::new();
    let keytool = "keytool -genkeypair -keystore s.jks -storetype JKS -storepass changeit -keyalg EC -groupname secp256r1 -validity 30";
    bench.run(&format!("{keytool} -alias own -dname CN=Own -keypass another"));
    bench.run(&format!("{keytool} -alias plain -dname CN=Plain"));
    let bytes = bench.read("s.jks");
    assert!(import_alias(&bytes, Some("changeit"), "plain").unwrap().key_pair().is_ok());
    let own = error(import_alias(&bytes, Some("changeit"), "own"));
    assert!(own.contains("passphrase of its own") && own.contains("keytool -keypasswd"), "{own}");
}

#[test]
fn an_alias_of_a_certificate_finds_its_key() {
    let bench = renewed();
    bench.run("openssl pkcs12 -export -inkey key.pem -in new.pem -name {0A1B} -passout pass:changeit -out keyed.p12");
    let imported = import_alias(&bench.read("keyed.p12"), Some("changeit"), "{0a1b}").unwrap();
    assert!(imported.key_pair().is_ok());
    if !has("keytool") {
        return;
    }
    // A certificate known by a name that its key does not bear.
    bench.run("keytool -importcert -noprompt -keystore keyed.p12 -storetype PKCS12 -storepass changeit -alias as2 -file new.pem");
    let imported = import_alias(&bench.read("keyed.p12"), Some("changeit"), "as2").unwrap();
    assert_eq!(imported.key_pair().unwrap().0, der_of(&bench, "new.pem"));
}

#[test]
fn the_fixtures_certificates_are_read() {
    for name in ["keys/client.crt", "keys/server.crt", "keys/server.key"] {
        let Some(bytes) = fixture(name) else { continue };
        let imported = import(&bytes, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        match name.ends_with("key") {
            true => assert!(imported.key.is_some()),
            false => assert!(!CertInfo::from_der(imported.certificate().unwrap()).unwrap().subject.is_empty()),
        }
    }
}

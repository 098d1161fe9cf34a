//! SSH keys, judged by ssh-keygen, puttygen and openssl.

use keystore::Error;
use keystore::ssh::{KeyFormat, KeyKind, convert, host_key, parse_public, show, to_rfc4716, user_key};

use crate::{Bench, error, has};

const KINDS: [KeyKind; 3] = [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa];
const FORMATS: [KeyFormat; 4] = [KeyFormat::Openssh, KeyFormat::Pem, KeyFormat::Ppk3, KeyFormat::Ppk2];

/// `ssh-keygen -l` of a file: bits and fingerprint.
fn fingerprint(bench: &Bench, file: &str) -> (u32, String) {
    let out = bench.run(&format!("ssh-keygen -l -f {file}"));
    let mut words = out.split(' ');
    (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_owned())
}

/// An Ed25519 key whose seed has a zero at the given place, as PKCS#8 PEM.
fn ed25519_with_zero_at(at: usize) -> String {
    let mut seed = [0x5a; 32];
    seed[at] = 0;
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    keystore::to_pem("PRIVATE KEY", &[&prefix[..], &seed].concat()).to_string()
}

#[test]
fn host_keys_are_openssh_keys() {
    if !has("ssh-keygen") {
        return;
    }
    for kind in KINDS {
        let key = host_key(kind).unwrap();
        let bench = Bench::new();
        bench.write("key", key.private.as_bytes());
        assert_eq!(bench.run("ssh-keygen -y -P ~ -f key").trim(), key.public_line);
        bench.write("key.pub", &key.public_line);
        assert_eq!(fingerprint(&bench, "key.pub").1, key.fingerprint);
    }
}

#[test]
fn openssh_reads_our_keys_and_their_passphrase() {
    if !has("ssh-keygen") {
        return;
    }
    for kind in KINDS {
        for format in [KeyFormat::Openssh, KeyFormat::Pem] {
            if kind == KeyKind::Ed25519 && format == KeyFormat::Pem {
                continue; // OpenSSH before 9.6 reads no such file; openssl judges it below
            }
            for passphrase in [None, Some("s3cret")] {
                let key = user_key(kind, format, passphrase, "erp@acme").unwrap();
                let bench = Bench::new();
                bench.write("key", key.private.as_bytes());
                let line = bench.run(&format!("ssh-keygen -y -P {} -f key", passphrase.unwrap_or("~")));
                let wanted = key.public_line.rsplit_once(' ').unwrap().0;
                assert!(line.trim().starts_with(wanted), "{kind} {format}: {line}");
                let wrong = bench.try_run("ssh-keygen -y -P wrong -f key");
                assert_eq!(wrong.status.success(), passphrase.is_none(), "{kind} {format}");
            }
        }
    }
}

#[test]
fn a_comment_of_several_lines_becomes_one() {
    if !has("ssh-keygen") {
        return;
    }
    let bench = Bench::new();
    bench.write(
        "other",
        user_key(KeyKind::Ed25519, KeyFormat::Openssh, None, "").unwrap().private.as_bytes(),
    );
    let other = bench.run("ssh-keygen -y -P ~ -f other");
    let dir = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("ssh-keygen")
        .args([
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            &format!("me\n{other}\nPrivate-Lines: 0"),
            "-f",
        ])
        .arg(dir.path().join("key"))
        .status();
    assert!(made.unwrap().success());
    let text = std::fs::read_to_string(dir.path().join("key")).unwrap();
    for format in FORMATS {
        let converted = convert(&text, None, format, None).unwrap();
        assert_eq!(converted.public_line.lines().count(), 1, "{}", converted.public_line);
        assert_eq!(parse_public(&converted.public_line).unwrap().len(), 1);
        let back = convert(&converted.private, None, KeyFormat::Openssh, None).unwrap();
        assert_eq!(back.fingerprint, converted.fingerprint);
        if format == KeyFormat::Ppk3 && has("puttygen") {
            bench.write("key.ppk", converted.private.as_bytes());
            bench.run("puttygen key.ppk -O public-openssh -o key.pub");
            assert_eq!(fingerprint(&bench, "key.pub").1, converted.fingerprint);
        }
    }
}

#[test]
fn openssl_reads_our_pem() {
    for kind in KINDS {
        let plain = user_key(kind, KeyFormat::Pem, None, "").unwrap();
        let sealed = convert(&plain.private, None, KeyFormat::Pem, Some("s3cret")).unwrap();
        let bench = Bench::new();
        bench.write("plain.pem", plain.private.as_bytes());
        bench.write("sealed.pem", sealed.private.as_bytes());
        assert!(sealed.private.contains("ENCRYPTED"));
        let public = bench.run("openssl pkey -in plain.pem -pubout");
        assert_eq!(public, bench.run("openssl pkey -in sealed.pem -passin pass:s3cret -pubout"));
        assert!(
            !bench
                .try_run("openssl pkey -in sealed.pem -passin pass:wrong -noout")
                .status
                .success()
        );
        let from_pem = parse_public(&public).unwrap();
        assert_eq!(from_pem[0].fingerprint, plain.fingerprint);
    }
}

#[test]
fn puttygen_accepts_every_ppk() {
    if !has("puttygen") || !has("ssh-keygen") {
        return;
    }
    for kind in KINDS {
        for format in [KeyFormat::Ppk3, KeyFormat::Ppk2] {
            for passphrase in [None, Some("pässword with blanks")] {
                let key = user_key(kind, format, passphrase, "erp key of acme").unwrap();
                let bench = Bench::new();
                bench.write("key.ppk", key.private.as_bytes());
                bench.write("old", passphrase.unwrap_or(""));
                bench.write("none", "");
                let public = bench.run("puttygen key.ppk -O public-openssh --old-passphrase old");
                assert_eq!(public.trim(), key.public_line, "{kind} {format}");
                // The private half too, through another program.
                bench.run("puttygen key.ppk -O private-openssh-new -o out --old-passphrase old --new-passphrase none");
                let line = bench.run("ssh-keygen -y -P ~ -f out");
                assert_eq!(line.trim(), key.public_line, "{kind} {format}");
                bench.write("wrong", "nope");
                let wrong = bench.try_run("puttygen key.ppk -O public-openssh -o x --old-passphrase wrong");
                let wrong_private = bench.try_run("puttygen key.ppk -O private-openssh -o x --old-passphrase wrong");
                assert!(wrong.status.success() || passphrase.is_some());
                assert_eq!(wrong_private.status.success(), passphrase.is_none(), "{kind} {format}");
            }
        }
    }
}

#[test]
fn puttygen_reads_our_openssh_and_traditional_pem() {
    if !has("puttygen") {
        return;
    }
    for (kind, format) in [
        (KeyKind::Ed25519, KeyFormat::Openssh),
        (KeyKind::Ecdsa, KeyFormat::Openssh),
        (KeyKind::Rsa, KeyFormat::Openssh),
        (KeyKind::Ecdsa, KeyFormat::Pem),
        (KeyKind::Rsa, KeyFormat::Pem),
    ] {
        for passphrase in [None, Some("s3cret")] {
            let key = user_key(kind, format, passphrase, "c").unwrap();
            let bench = Bench::new();
            bench.write("key", key.private.as_bytes());
            bench.write("old", passphrase.unwrap_or(""));
            bench.write("none", "");
            bench.run("puttygen key -O private -o out.ppk --old-passphrase old --new-passphrase none");
            let read = convert(&bench.text("out.ppk"), None, KeyFormat::Openssh, None).unwrap();
            assert_eq!(read.fingerprint, key.fingerprint, "{kind} {format}");
        }
    }
}

#[test]
fn puttygens_own_files_are_read() {
    if !has("puttygen") {
        return;
    }
    let bench = Bench::new();
    bench.write("pass", "s3cret");
    bench.write("none", "");
    for kind in ["ed25519", "ecdsa -b 256", "ecdsa -b 384", "ecdsa -b 521", "rsa -b 2048"] {
        for (options, passphrase) in [
            ("--ppk-param version=3 --new-passphrase pass", Some("s3cret")),
            ("--ppk-param version=2 --new-passphrase pass", Some("s3cret")),
            (
                "--ppk-param version=3,kdf=argon2i,memory=1024,passes=2,parallelism=2 --new-passphrase pass",
                Some("s3cret"),
            ),
            (
                "--ppk-param version=3,kdf=argon2d,memory=1024,passes=2 --new-passphrase pass",
                Some("s3cret"),
            ),
            ("--ppk-param version=3 --new-passphrase none", None),
            ("--ppk-param version=2 --new-passphrase none", None),
        ] {
            bench.run(&format!(
                "puttygen -q -t {kind} --random-device /dev/urandom -C k@p -o k.ppk {options}"
            ));
            let public = bench.run("puttygen k.ppk -O public-openssh");
            let text = bench.text("k.ppk");
            for text in [text.clone(), text.replace('\n', "\r\n")] {
                let read = convert(&text, passphrase, KeyFormat::Openssh, None).unwrap_or_else(|e| panic!("{kind} {options}: {e}"));
                assert_eq!(read.public_line, public.trim(), "{kind} {options}");
            }
            let shown = show(&text, None).unwrap();
            assert_eq!(shown[0].comment, "k@p");
            assert!(public.starts_with(&shown[0].line));
            if passphrase.is_some() {
                assert!(error(convert(&text, None, KeyFormat::Pem, None)).contains("protected by a passphrase"));
                assert!(error(convert(&text, Some("no"), KeyFormat::Pem, None)).contains("wrong passphrase"));
            }
            let tampered = text.replacen("Comment: k@p", "Comment: x@p", 1);
            assert!(
                convert(&tampered, passphrase, KeyFormat::Openssh, None).is_err(),
                "the MAC covers the comment"
            );
        }
    }
}

#[test]
fn ed25519_seeds_with_zeros_at_either_end_survive_ppk() {
    if !has("puttygen") {
        return;
    }
    for at in [0, 31] {
        let pem = ed25519_with_zero_at(at);
        let openssh = convert(&pem, None, KeyFormat::Openssh, None).unwrap();
        let bench = Bench::new();
        bench.write("key", openssh.private.as_bytes());
        bench.write("none", "");
        // PuTTY's own file of it, whose private part is one byte short for a zero at the end.
        bench.run("puttygen key -O private -o theirs.ppk --new-passphrase none --ppk-param version=3");
        let theirs = convert(&bench.text("theirs.ppk"), None, KeyFormat::Pem, None).unwrap();
        assert_eq!(*theirs.private, pem, "zero at {at}");
        for format in [KeyFormat::Ppk2, KeyFormat::Ppk3] {
            let ours = convert(&pem, None, format, None).unwrap();
            bench.write("ours.ppk", ours.private.as_bytes());
            let public = bench.run("puttygen ours.ppk -O public-openssh");
            assert!(public.starts_with(&openssh.public_line), "zero at {at}");
            bench.run("puttygen ours.ppk -O private-openssh-new -o back --new-passphrase none");
            let back = convert(&bench.text("back"), None, KeyFormat::Pem, None).unwrap();
            assert_eq!(*back.private, pem, "zero at {at}");
        }
    }
}

/// An ECDSA key whose number begins with so many zero bytes, as SEC 1 PEM without its public half.
fn ecdsa_with_zeros(oid: &[u8], bytes: usize, zeros: usize) -> String {
    let mut scalar = vec![0x5a; bytes];
    scalar[..zeros].fill(0);
    let short = |length: usize| u8::try_from(length).unwrap();
    let curve = [&[0xa0, short(oid.len())], oid].concat();
    let body = [&[2, 1, 1, 4, short(bytes)], scalar.as_slice(), &curve].concat();
    keystore::to_pem("EC PRIVATE KEY", &[&[0x30, short(body.len())], body.as_slice()].concat()).to_string()
}

#[test]
fn ecdsa_keys_whose_number_begins_with_zeros_are_read_and_written() {
    if !has("ssh-keygen") {
        return;
    }
    let p256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let (p384, p521): (&[u8], &[u8]) = (&[6, 5, 0x2b, 0x81, 4, 0, 0x22], &[6, 5, 0x2b, 0x81, 4, 0, 0x23]);
    let plain = [
        (p256, 32, 1),
        (p256, 32, 2),
        (p384, 48, 1),
        (p384, 48, 17),
        (p521, 66, 1),
        (p521, 66, 33),
    ]
    .map(|key| (key, None));
    let sealed = ["aes256-ctr", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"].map(|cipher| ((p256, 32, 1), Some(cipher)));
    for ((oid, bytes, zeros), cipher) in plain.into_iter().chain(sealed) {
        let pem = ecdsa_with_zeros(oid, bytes, zeros);
        // OpenSSH writes its own format whatever it read.
        let bench = Bench::new();
        bench.write("half", &pem);
        bench.run("openssl ec -in half -out whole");
        bench.write("key", bench.text("whole"));
        let passphrase = cipher.map(|_| "s3cret");
        let options = cipher.map_or("-N ~".to_owned(), |cipher| format!("-N s3cret -Z {cipher}"));
        bench.run(&format!("ssh-keygen -q -p -P ~ {options} -f key"));
        let theirs = bench.text("key");
        assert!(theirs.contains("BEGIN OPENSSH PRIVATE KEY"));
        let line = bench.run(&format!("ssh-keygen -y -P {} -f key", passphrase.unwrap_or("~")));
        let what = format!("{bytes} bytes, {zeros} zeros, {cipher:?}");
        let shown = show(&theirs, None).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(line.starts_with(&shown[0].line), "{what}");
        for to in FORMATS {
            let ours = convert(&theirs, passphrase, to, None).unwrap_or_else(|error| panic!("{what} {to}: {error}"));
            assert!(line.starts_with(ours.public_line.trim()), "{what} {to}");
            let back = convert(&ours.private, None, KeyFormat::Openssh, None).unwrap();
            bench.write("back", back.private.as_bytes());
            assert_eq!(
                bench.run("ssh-keygen -y -P ~ -f back").trim(),
                ours.public_line.trim(),
                "{what} {to}"
            );
        }
    }
}

#[test]
fn keys_of_ssh_keygen_are_read_in_all_its_formats() {
    if !has("ssh-keygen") {
        return;
    }
    let bench = Bench::new();
    let mut made = 0;
    for kind in ["ed25519", "ecdsa -b 256", "ecdsa -b 384", "ecdsa -b 521", "rsa -b 2048"] {
        for format in ["RFC4716", "PEM", "PKCS8"] {
            for passphrase in ["~", "s3cret"] {
                made += 1;
                let old = if format == "RFC4716" { "" } else { "-m" };
                let m = if format == "RFC4716" { "" } else { format };
                bench.run(&format!("ssh-keygen -q -t {kind} {old} {m} -N {passphrase} -C c@h -f k{made}"));
                let text = bench.text(&format!("k{made}"));
                let (bits, wanted) = fingerprint(&bench, &format!("k{made}.pub"));
                let given = (passphrase != "~").then_some(passphrase);
                for to in FORMATS {
                    let there = convert(&text, given, to, None).unwrap_or_else(|e| panic!("{kind} {format}: {e}"));
                    assert_eq!(there.fingerprint, wanted);
                    let back = convert(&there.private, None, KeyFormat::Openssh, None).unwrap();
                    assert_eq!(back.fingerprint, wanted);
                }
                if given.is_some() {
                    assert!(error(convert(&text, None, KeyFormat::Pem, None)).contains("protected by a passphrase"));
                    assert!(error(convert(&text, Some("no"), KeyFormat::Pem, None)).contains("wrong passphrase"));
                }
                let public = parse_public(&bench.text(&format!("k{made}.pub"))).unwrap();
                assert_eq!((public[0].bits, &public[0].fingerprint), (bits, &wanted));
                assert_eq!(public[0].comment, "c@h");
                assert_eq!(show(&text, given).unwrap()[0].fingerprint, wanted);
            }
        }
    }
}

#[test]
fn several_blanks_between_the_columns_are_one() {
    let key = user_key(KeyKind::Ed25519, KeyFormat::Openssh, None, "alice  at home").unwrap();
    let wide = key.public_line.replacen(' ', "  ", 1).replacen(" alice", " \t alice", 1);
    let read = parse_public(&wide).unwrap().remove(0);
    assert_eq!((read.fingerprint, read.comment.as_str()), (key.fingerprint, "alice  at home"));
}

#[test]
fn a_cipher_that_is_not_read_is_named() {
    if !has("ssh-keygen") {
        return;
    }
    let bench = Bench::new();
    bench.run("ssh-keygen -q -t ed25519 -Z 3des-cbc -N s3cret -f old");
    let words = error(convert(&bench.text("old"), Some("s3cret"), KeyFormat::Openssh, None));
    assert!(words.contains("3des-cbc") && words.contains("-Z aes256-ctr"), "{words}");
}

#[test]
fn rfc_4716_goes_both_ways() {
    if !has("ssh-keygen") {
        return;
    }
    let bench = Bench::new();
    bench.run("ssh-keygen -q -t rsa -b 2048 -N ~ -C someone@somewhere -f k");
    let theirs = bench.run("ssh-keygen -e -f k.pub");
    let key = parse_public(&theirs).unwrap().remove(0);
    assert_eq!(key.line, bench.text("k.pub").rsplit_once(' ').unwrap().0);
    assert!(key.comment.contains("converted by"), "{}", key.comment);
    let mut long = key.clone();
    long.comment = "a very long comment \"with quotes\" ".repeat(6);
    for key in [&key, &long] {
        let ours = to_rfc4716(key);
        assert!(ours.lines().all(|l| l.len() <= 72), "{ours}");
        bench.write("ours", &ours);
        assert!(bench.run("ssh-keygen -i -f ours").trim().starts_with(&key.line));
        assert_eq!(parse_public(&ours.replace('\n', "\r\n")).unwrap()[0].line, key.line);
    }
    let two = theirs.clone() + "\n" + &bench.text("k.pub") + "# note\n\n" + &theirs;
    assert_eq!(parse_public(&two).unwrap().len(), 3);
    if has("puttygen") {
        bench.write("none", "");
        bench.run("puttygen k -O public -o putty.pub");
        assert_eq!(parse_public(&bench.text("putty.pub")).unwrap()[0].line, key.line);
    }
}

fn ed25519_line() -> String {
    user_key(KeyKind::Ed25519, KeyFormat::Openssh, None, "").unwrap().public_line
}

#[test]
fn authorized_keys_lines_keep_what_we_honour() {
    let line = ed25519_line();
    let text = format!(
        "# our keys\r\n\r\n{line}\r\nfrom=\"192.0.2.0/24,!192.0.2.9\" {line} with a comment\r\n\
         expiry-time=\"20270101Z\",from=\"2001:db8::1\"\t{line}\r\n"
    );
    let keys = parse_public(&text).unwrap();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|k| k.line == line));
    assert_eq!(keys[1].options.from, ["192.0.2.0/24", "!192.0.2.9"]);
    assert_eq!(keys[1].comment, "with a comment");
    assert_eq!(keys[2].options.expiry_time, Some(1_798_761_600));
    assert!(keys[2].options.is_current(1_798_761_599) && !keys[2].options.is_current(1_798_761_600));
    assert!(parse_public(&format!("\u{feff}{line}")).is_ok());
}

#[test]
fn other_options_are_refused_by_name_and_line() {
    let line = ed25519_line();
    for option in [
        "command=\"rm -rf /\"",
        "environment=\"A=b c\"",
        "tunnel=\"0\"",
        "permitopen=\"x:1\"",
    ] {
        let words = error(parse_public(&format!("{line}\n{option},from=\"10.0.0.1\" {line}\n")));
        let name = option.split('=').next().unwrap();
        assert!(words.starts_with("line 2: ") && words.contains(name), "{words}");
        assert!(!words.contains("rm -rf"), "{words}");
    }
}

#[test]
fn security_keys_are_accepted() {
    // PROTOCOL.u2f; made with `ssh-keygen -t ed25519-sk` and `ecdsa-sk` elsewhere.
    let ed = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAICFo/k5LU8863u66YC9eUO2170QduohPURkQnbLa/dczAAAABHNzaDo= sk";
    let ec = "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBIELQJ2DgvaX1yQlKFokfWM2suuaCFI2qp0eJodHyg6O4ifxc3XpRKd1OS8dNYQtE/YjdXSrA+AOnMF5ns2Nkx4AAAAEc3NoOg== sk";
    for line in [ed, ec] {
        let key = parse_public(line).unwrap().remove(0);
        assert_eq!((key.bits, key.comment.as_str()), (256, "sk"));
        if has("ssh-keygen") {
            let bench = Bench::new();
            bench.write("k.pub", line);
            assert_eq!(fingerprint(&bench, "k.pub").1, key.fingerprint);
        }
    }
}

#[test]
fn weak_and_foreign_keys_are_refused_with_the_reason() {
    if !has("ssh-keygen") {
        return;
    }
    let bench = Bench::new();
    bench.run("ssh-keygen -q -t rsa -b 1024 -N ~ -f short");
    assert!(error(parse_public(&bench.text("short.pub"))).contains("1024 bits is too short"));
    if bench.try_run("ssh-keygen -q -t dsa -N ~ -f dsa").status.success() {
        assert!(error(parse_public(&bench.text("dsa.pub"))).contains("DSA"));
        assert!(error(convert(&bench.text("dsa"), None, KeyFormat::Ppk3, None)).contains("DSA"));
    }
    bench.run("openssl req -x509 -newkey rsa:2048 -nodes -keyout x.key -out x.pem -subj /CN=x");
    assert!(error(parse_public(&bench.text("x.pem"))).contains("X.509"));
    bench.run("ssh-keygen -q -t ed25519 -N ~ -f ca");
    bench.run("ssh-keygen -q -s ca -I id -n user ca.pub");
    assert!(error(parse_public(&bench.text("ca-cert.pub"))).contains("certificate"));
    let line = ed25519_line();
    for wrong in [
        &line[..40],
        &line[..line.len() - 3],
        "ssh-ed25519",
        "hello world",
        "ssh-ed25519 !!!!",
        "ssh-foo AAAA",
    ] {
        assert!(matches!(parse_public(wrong), Err(Error::RefusedKey(_))), "{wrong}");
    }
    let swapped = line.replacen("ssh-ed25519 ", "ssh-rsa ", 1);
    assert!(error(parse_public(&swapped)).contains("type"));
    assert!(matches!(parse_public(" \n"), Err(Error::Empty)));
    assert!(error(parse_public("# nothing\n")).contains("only comments"));
    assert!(matches!(parse_public(&"x".repeat(300_000)), Err(Error::TooLarge { .. })));
    let huge = format!("ssh-rsa {}", "A".repeat(20_000));
    assert!(error(parse_public(&huge)).contains("longer than"));
}

#[test]
fn a_private_key_is_recognised_in_every_form_and_not_repeated() {
    for kind in KINDS {
        for format in FORMATS {
            for passphrase in [None, Some("s3cret")] {
                let key = user_key(kind, format, passphrase, "me").unwrap();
                let text = &*key.private;
                let lines: Vec<&str> = text.lines().collect();
                let crlf = text.replace('\n', "\r\n");
                let behind_a_key = format!("{}\n{text}", key.public_line);
                let without_end = lines[..lines.len() - 1].join("\n");
                for pasted in [text, &crlf, &format!("  {text}"), &behind_a_key, &without_end] {
                    let e = parse_public(pasted).unwrap_err();
                    assert!(matches!(e, Error::PrivateKeyGiven), "{kind} {format}: {e}");
                    assert_eq!(e.to_string(), "this is a private key; give the public half (the .pub file)");
                }
                // Without its first lines it may go unrecognised, but nothing of it comes back.
                let tail = lines[lines.len() / 2..].join("\n");
                let words = error(parse_public(&tail));
                assert!(
                    lines[lines.len() / 2..].iter().all(|l| l.len() < 12 || !words.contains(l)),
                    "{words}"
                );
            }
        }
    }
    let body = user_key(KeyKind::Ed25519, KeyFormat::Openssh, None, "").unwrap();
    let body: Vec<&str> = body.private.lines().skip(1).collect();
    assert!(matches!(parse_public(&body.join("\n")), Err(Error::PrivateKeyGiven)));
}

#[test]
fn converting_checks_what_it_is_given() {
    let line = ed25519_line();
    assert!(matches!(convert(&line, None, KeyFormat::Pem, None), Err(Error::PublicKeyGiven)));
    assert!(matches!(convert("", None, KeyFormat::Pem, None), Err(Error::Empty)));
    assert!(error(convert("hello", None, KeyFormat::Pem, None)).contains("no private key"));
    let key = user_key(KeyKind::Ed25519, KeyFormat::Openssh, None, "").unwrap();
    assert!(error(convert(&key.private, None, KeyFormat::Pem, Some(""))).contains("empty"));
    assert!(user_key(KeyKind::Ed25519, KeyFormat::Ppk3, None, "two\nlines").is_err());
    for (text, format) in ["openssh", "pem", "ppk", "ppk2"].into_iter().zip(FORMATS) {
        assert_eq!(text.parse::<KeyFormat>().unwrap(), format);
        assert_eq!(format.to_string(), text);
    }
}

#[test]
fn no_damaged_key_panics_or_asks_for_too_much() {
    for format in FORMATS {
        let key = user_key(KeyKind::Ecdsa, format, None, "c").unwrap();
        let bytes = key.private.as_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] = if damaged[at] == b'A' { b'z' } else { b'A' };
            let _ = convert(&String::from_utf8(damaged).unwrap(), None, KeyFormat::Ppk2, None);
            let _ = convert(&key.private[..at], None, KeyFormat::Ppk2, None);
            let _ = show(&key.private[..at], None);
        }
        let public = key.public_line.as_bytes();
        for at in 0..public.len() {
            let mut damaged = public.to_vec();
            damaged[at] ^= 2;
            let _ = parse_public(&String::from_utf8_lossy(&damaged));
        }
    }
    let sealed = user_key(KeyKind::Ed25519, KeyFormat::Ppk3, Some("s3cret"), "").unwrap();
    for (from, to) in [
        ("Memory: 8192", "Memory: 4000000"),
        ("Passes: 13", "Passes: 4000000000"),
        ("Parallelism: 1", "Parallelism: 9999"),
    ] {
        let bomb = sealed.private.replace(from, to);
        assert!(error(convert(&bomb, Some("s3cret"), KeyFormat::Pem, None)).contains("out of range"));
    }
}

//! SFTP version 3 as the gateway speaks it: what goes on beside what, what is refused, and how (sftp.md §5).

use tests::packets::{Packets, packet, page_names, string};
use tests::process::{profile_dir, run, run_with, tool};
use tests::{Gateway, Pair};

const OK: Option<u32> = Some(0);
const NO_SUCH_FILE: Option<u32> = Some(2);
const DENIED: Option<u32> = Some(3);
const UNSUPPORTED: Option<u32> = Some(8);

fn extended(client: &mut Packets, name: &str, fields: &[&[u8]]) -> tests::packets::Answer {
    let mut all = vec![string(name.as_bytes())];
    all.extend(fields.iter().map(|field| field.to_vec()));
    client.ask(200, &[&all.concat()])
}

#[test]
fn old_scp_gets_one_clear_line_and_new_scp_works() {
    let pair = Pair::one_gateway();
    let gateway = pair.alice();
    let user = gateway.user("copies");
    let local = gateway.file("local/scp.edi", b"copied");
    let told = user.scp(&["-O"], &local, "AS2/send/ALICE/BOB/scp.edi");
    assert_ne!(told.code, 0);
    assert_eq!(told.stderr.matches("sftp connections only").count(), 1, "{told}");
    let _ = user.scp(&[], &local, "AS2/send/ALICE/BOB/scp.edi").ok();
    gateway.reaches("out", "scp.edi", "delivered");
}

/// Tags of UMAC go over blocks of 1,024 bytes and over a rest of any length, keystreams begin anew with each packet; OpenSSH makes
/// and checks them too.
#[test]
fn every_cipher_and_mac_covers_packets_of_every_length() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1h\"")]);
    let user = pair.alice().user("lengths");
    let dir = tempfile::tempdir().unwrap();
    let sizes = Vec::from_iter((0..2200).step_by(16).chain([31_000, 32_768, 100_000]));
    for size in &sizes {
        let bytes = Vec::from_iter((0..*size).map(|i| (i * 7 + size) as u8));
        std::fs::write(dir.path().join(format!("{size}.edi")), bytes).unwrap();
    }
    for (cipher, mac) in [
        ("aes256-ctr", "umac-128-etm@openssh.com"),
        ("aes256-ctr", "hmac-sha2-256-etm@openssh.com"),
        ("aes256-ctr", "hmac-sha2-512-etm@openssh.com"),
        ("aes256-ctr", "hmac-sha2-256"),
        ("aes128-gcm@openssh.com", "<implicit>"),
        ("chacha20-poly1305@openssh.com", "<implicit>"),
    ] {
        let back = tempfile::tempdir().unwrap();
        let lines = format!(
            "put {0}/*.edi AS2/send/ALICE/BOB/\nget AS2/send/ALICE/BOB/*.edi {1}/\nrm AS2/send/ALICE/BOB/*.edi\n",
            dir.path().display(),
            back.path().display()
        );
        let mut options = vec!["-v".to_owned(), format!("-oCiphers={cipher}")];
        options.extend((mac != "<implicit>").then(|| format!("-oMACs={mac}")));
        let mut client = user.command(&options.iter().map(String::as_str).collect::<Vec<_>>());
        let ran = run_with(&mut client, &lines);
        assert_eq!(ran.code, 0, "{cipher} {mac}: {ran}");
        assert_eq!(ran.stderr.matches(&format!("{cipher} MAC: {mac} ")).count(), 2, "{ran}");
        for size in &sizes {
            let name = format!("{size}.edi");
            let (sent, got) = [dir.path(), back.path()].map(|dir| std::fs::read(dir.join(&name)).unwrap()).into();
            assert_eq!(sent, got, "{cipher} {mac}, {size} bytes");
        }
    }
}

/// ProFTPD CVE-2019-12815, bssh 214: neither copies nor links.
#[test]
fn extensions_are_offered_and_refused_as_told() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1h\"")]);
    let user = pair.alice().user("extended");
    let mut client = Packets::of(&user);
    let name = string(b"AS2/send/ALICE/BOB/x.edi");
    let limits = extended(&mut client, "limits@openssh.com", &[]);
    let numbers: Vec<u64> = limits.body.chunks(8).map(|c| u64::from_be_bytes(c.try_into().unwrap())).collect();
    assert_eq!((limits.kind, numbers), (201, vec![262_144, 261_120, 261_120, 256]));
    assert_eq!(extended(&mut client, "statvfs@openssh.com", &[&string(b"/")]).body.len(), 11 * 8);
    let expanded = extended(&mut client, "expand-path@openssh.com", &[&string(b"~/AS2")]);
    assert_eq!(expanded.text(), b"/mftg-acme/AS2");
    assert_eq!(extended(&mut client, "home-directory", &[&string(b"")]).text(), b"/mftg-acme");
    let ids = [0u32.to_be_bytes(), 7u32.to_be_bytes()].concat();
    let names = extended(&mut client, "users-groups-by-id@openssh.com", &[&string(&ids), &string(&ids)]);
    assert_eq!((names.kind, names.body), (201, [string(&[0; 8]), string(&[0; 8])].concat()));
    // OpenSSH asks for them in this form of listing, from 9.0 on, and shows the numbers where there is no name.
    let listed = user.ok(&["ls -lh AS2"]);
    assert!(listed.contains("0        0") && listed.contains("AS2/send"), "{listed}");

    let opened = client.ask(3, &[&name, &0x1au32.to_be_bytes(), &[0; 4]]);
    let handle = string(&opened.text());
    assert_eq!(client.ask(6, &[&handle, &[0; 8], &string(b"content")]).code(), OK);
    assert_eq!(extended(&mut client, "fsync@openssh.com", &[&handle]).code(), OK);
    assert_eq!(extended(&mut client, "fstatvfs@openssh.com", &[&handle]).kind, 201);
    let copy = extended(&mut client, "copy-data", &[&handle, &[0; 16], &handle, &[0; 8]]);
    assert_eq!(copy.code(), UNSUPPORTED, "a second way to make content");
    assert_eq!(client.ask(4, &[&handle]).code(), OK);
    let other = string(b"AS2/send/ALICE/BOB/y.edi");
    assert_eq!(extended(&mut client, "hardlink@openssh.com", &[&name, &other]).code(), UNSUPPORTED);
    assert_eq!(client.ask(20, &[&name, &other]).code(), UNSUPPORTED, "SYMLINK");
    assert_eq!(client.ask(19, &[&name]).code(), UNSUPPORTED, "READLINK");
    let times = [&8u32.to_be_bytes()[..], &[0; 8]].concat();
    assert_eq!(extended(&mut client, "lsetstat@openssh.com", &[&name, &times]).code(), OK);
    assert_eq!(extended(&mut client, "nonsense@example.com", &[]).code(), UNSUPPORTED);
}

#[test]
fn many_closes_of_one_connection_share_their_commits() {
    let pair = Pair::one_with(&[("uploads.release_after", "\"1h\"")]);
    let user = pair.alice().user("pipelined");
    let mut client = Packets::of(&user);
    let names: Vec<String> = (0..64).map(|k| format!("AS2/send/ALICE/BOB/{k}.edi")).collect();
    let mut handles = Vec::new();
    for name in &names {
        let opened = client.ask(3, &[&string(name.as_bytes()), &0x1au32.to_be_bytes(), &[0; 4]]);
        handles.push(string(&opened.text()));
    }
    // WRITE, CLOSE and STAT of each file, all at once.
    let mut burst = Vec::new();
    for (k, (name, handle)) in names.iter().zip(&handles).enumerate() {
        let k = u32::try_from(k).unwrap();
        burst.extend(packet(6, 1_000 + k, &[handle, &[0; 8], &string(b"twelve bytes")]));
        burst.extend(packet(4, 2_000 + k, &[handle]));
        burst.extend(packet(17, 3_000 + k, &[&string(name.as_bytes())]));
    }
    client.send(&burst);
    let mut closed = std::collections::HashSet::new();
    for _ in 0..names.len() * 3 {
        let answer = client.answer().unwrap();
        match answer.id / 1_000 {
            1 => assert_eq!(answer.code(), OK),
            2 => {
                assert_eq!(answer.code(), OK, "{}", String::from_utf8_lossy(&answer.text()));
                closed.insert(answer.id - 2_000);
            }
            _ => {
                assert!(closed.contains(&(answer.id - 3_000)), "STAT before its CLOSE");
                assert_eq!((answer.kind, &answer.body[4..12]), (105, &12u64.to_be_bytes()[..]));
            }
        }
    }
    assert_eq!(pair.alice().messages("out").len(), names.len());
}

#[test]
fn a_hundred_thousand_entries_are_listed_in_pages_with_flat_memory() {
    const ENTRIES: usize = 100_000;
    const DIR: &[u8] = b"AS2/raw-mdn/incoming";
    const ALLOWED: u64 = 16 << 20;
    let gateway = Gateway::stopped(&[]);
    // Rows as a year of receipts leaves them.
    gateway.sql(&format!(
        "WITH RECURSIVE n (k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM n WHERE k < {ENTRIES} - 1)
         INSERT INTO entry (account, parent, name, area, message, is_dir, size, created)
         SELECT 'acme', 'AS2/raw-mdn/incoming', printf('receipt-%06d.mdn', k), 'raw-mdn', '', 0, 1234, 1795478400000 FROM n"
    ));
    gateway.start();
    let user = gateway.user("lists");
    let mut client = Packets::of(&user);
    let before = gateway.peak_memory();
    let handle = string(&client.ask(11, &[&string(DIR)]).text());
    let (mut names, mut pages) = (Vec::with_capacity(ENTRIES), 0);
    loop {
        let page = client.ask(12, &[&handle]);
        if page.kind != 104 {
            assert_eq!(page.code(), Some(1), "EOF");
            break;
        }
        assert!(page.body.len() < 64 << 10, "a page of {} bytes", page.body.len());
        pages += 1;
        names.extend(page_names(&page.body));
    }
    assert!(
        pages >= ENTRIES / 100 && names.len() == ENTRIES,
        "{pages} pages, {} names",
        names.len()
    );
    assert!(names.windows(2).all(|pair| pair[0].0 < pair[1].0) && names.iter().all(|(_, is_dir)| !is_dir));
    // Ten listings at once, none of which is read to its end, and the real client.
    for _ in 0..10 {
        let handle = string(&client.ask(11, &[&string(DIR)]).text());
        assert_eq!(client.ask(12, &[&handle]).kind, 104);
    }
    let text = user.ok(&["ls -ln AS2/raw-mdn/incoming"]);
    assert_eq!(text.lines().count(), ENTRIES);
    let line = text.lines().next().unwrap();
    assert!(
        line.starts_with("-r--r-----") && line.contains(" 1234 ") && line.ends_with("receipt-000000.mdn"),
        "{line}"
    );
    let grown = gateway.peak_memory() - before;
    println!("{ENTRIES} entries in {pages} pages, memory + {} KiB", grown >> 10);
    assert!(grown < ALLOWED, "memory grew by {} MiB", grown >> 20);
}

#[test]
fn what_is_missing_and_what_is_closed() {
    let gateway = Gateway::new();
    let mut client = Packets::of(&gateway.user("asks"));
    for path in ["/", "/mftg-acme", "AS2", "AS2/send"] {
        assert_eq!(client.ask(17, &[&string(path.as_bytes())]).kind, 105, "{path}");
    }
    assert_eq!(client.ask(17, &[&string(b"/missing")]).code(), NO_SUCH_FILE);
    assert_eq!(client.ask(17, &[&string(b"AS2/keystore/x")]).code(), DENIED);
    // What cannot be read is answered with its own id; what is no packet at all ends the channel.
    client.send(&packet(17, 77, &[&[0, 0, 1, 0, b'x']]));
    let answer = client.answer().unwrap();
    assert_eq!((answer.id, answer.code()), (77, Some(5)));
    client.send(&[0xff; 4]);
    assert_eq!(client.answer(), None);
}

#[test]
fn openssh_own_scripts_pass_against_the_engine() {
    let scripts = std::path::Path::new("/usr/lib/openssh/regress");
    let server = profile_dir().join("examples/sftp-stdio");
    if !scripts.is_dir() || !server.exists() {
        eprintln!("skipped: no openssh-tests (apt-get install -y openssh-tests), or the example sftp-stdio is not built");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _ = run(&mut tool(
        "cp",
        &["-a", &format!("{}/.", scripts.display()), dir.path().to_str().unwrap()],
    ))
    .ok();
    // sshd wants it, and only an init system that has started one makes it.
    let _ = std::fs::create_dir("/run/sshd");
    // Copying on the server is refused by intent: a second way to make content.
    let cmds = dir.path().join("sftp-cmds.sh");
    let _ = run(&mut tool("sed", &["-i", "/: cp\"/,/after cp\"/d", cmds.to_str().unwrap()])).ok();
    // The scripts want a path without options and write beside themselves.
    for script in ["sftp", "sftp-cmds", "sftp-badcmds", "sftp-batch", "sftp-glob", "sftp-perm"] {
        let here = dir.path().to_str().unwrap();
        let mut shell = tool("sh", &["test-exec.sh", here, &format!("{here}/{script}.sh")]);
        shell
            .current_dir(dir.path())
            .env("TEST_SHELL", "sh")
            .env("TEST_SSH_SSH", "/usr/bin/ssh");
        shell.env("TEST_SSH_SFTPSERVER", &server).env("TEST_SSH_UNSAFE_PERMISSIONS", "1");
        let told = run(&mut shell);
        assert!(told.code == 0 && told.stdout.contains("ok "), "{script}: {told}");
    }
}

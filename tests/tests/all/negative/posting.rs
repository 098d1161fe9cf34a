//! Our own async MDNs on their way out: addresses that do not answer, MDNs that an operator posts again, and who may say where
//! they go (as2.md SEC1; security.md §5).

use std::sync::atomic::AtomicU16;
use std::time::Instant;

use super::*;

/// Messages posted to a partner at once, by default.
const AT_ONCE: usize = 4;
/// Far less than the five minutes that a post which hangs holds its slot, and enough for a machine that is busy.
const SOON: Duration = Duration::from_secs(60);

/// A partner's server.
struct Door {
    port: u16,
    hits: Arc<Mutex<Vec<Hit>>>,
}

impl Door {
    /// Answers each request with the status given, 503 with a `Retry-After` of 2 s, or never.
    fn open(answer: impl Fn(&Hit) -> Option<u16> + Send + Sync + 'static) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let hits = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&hits);
        thread::spawn(move || {
            let mut silent = Vec::new();
            for mut stream in listener.incoming().map_while(Result::ok) {
                let Some(hit) = read_request(&mut stream) else { continue };
                seen.lock().unwrap().push(hit.clone());
                match answer(&hit) {
                    Some(503) => drop(stream.write_all(&http(503, &[("Retry-After", "2")], ""))),
                    Some(status) => drop(stream.write_all(&http(status, &[], ""))),
                    None => silent.push(stream),
                }
            }
        });
        Door { port, hits }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// How often a path was posted to.
    fn posts(&self, path: &str) -> usize {
        let begin = format!("POST /{path} ");
        self.hits.lock().unwrap().iter().filter(|hit| hit.head.starts_with(&begin)).count()
    }

    /// Waits until a path was posted to.
    #[track_caller]
    fn called(&self, path: &str) -> Hit {
        let begin = format!("POST /{path} ");
        wait_for(path, || {
            self.hits.lock().unwrap().iter().find(|hit| hit.head.starts_with(&begin)).cloned()
        })
    }
}

/// Adds a partner behind a door.
fn partner(stage: &Stage, id: &str, door: &Door, options: &[&str]) {
    stage.add(
        id,
        door.port,
        &[&["--require-encrypted", "false", "--mdn", "none"], options].concat(),
    );
    let known = payload()
        .signed(&stage.partner)
        .message(&format!("<known-{id}@test>"))
        .with("AS2-From", id);
    wait_for("the new partner", || {
        (known.post(stage.gate.as2_port).disposition() == PROCESSED).then_some(())
    });
}

/// Sends an order to a partner.
fn send(stage: &Stage, to: &str) {
    let file = stage.gate.file(&format!("local/{to}.edi"), &order(next()));
    stage.gate.ok(&["send", "--from", STATION, "--to", to, file.to_str().unwrap()]);
}

#[test]
fn partners_that_never_answer_hold_up_no_others() {
    const SILENT: [&str; 3] = ["SILENT-1", "SILENT-2", "SILENT-3"];
    let stage = Stage::new(&[]);
    let (silent, prompt) = (Door::open(|_| None), Door::open(|_| Some(204)));
    SILENT.iter().for_each(|id| partner(&stage, id, &silent, &[]));
    partner(&stage, "PROMPT", &prompt, &[]);
    for to in SILENT {
        for n in 0..=AT_ONCE {
            let file = stage.gate.file(&format!("local/{to}-{n}.edi"), &order(next()));
            stage.gate.ok(&["send", "--from", STATION, "--to", to, file.to_str().unwrap()]);
        }
    }
    wait_for("the posts that hang", || {
        (silent.posts("as2") >= SILENT.len() * AT_ONCE).then_some(())
    });
    let began = Instant::now();
    send(&stage, "PROMPT");
    prompt.called("as2");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(silent.posts("as2"), SILENT.len() * AT_ONCE);
}

#[test]
fn an_mdn_address_that_never_answers_holds_up_nobody() {
    let stage = Stage::new(&[]);
    let silent = Door::open(|hit| (!hit.head.starts_with("POST /mdn ")).then_some(204));
    let prompt = Door::open(|_| Some(204));
    partner(&stage, "SILENT", &silent, &[]);
    partner(&stage, "PROMPT", &prompt, &[]);
    let signed = payload().signed(&stage.partner);
    let ask = |from: &str, door: &Door, id: &str| {
        let request = signed.message(id).with("AS2-From", from);
        let answer = request.with("Receipt-Delivery-Option", &door.url("mdn")).post(stage.gate.as2_port);
        assert_eq!(answer.status, 204, "{}", answer.text());
    };
    for n in 0..24 {
        ask("SILENT", &silent, &format!("<silent-{n}@test>"));
    }
    wait_for("the posts that hang", || (silent.posts("mdn") >= AT_ONCE).then_some(()));

    let began = Instant::now();
    send(&stage, "PROMPT");
    send(&stage, "SILENT");
    ask("PROMPT", &prompt, "<prompt@test>");
    let body = String::from_utf8_lossy(&prompt.called("mdn").message.body).into_owned();
    assert!(body.contains("Original-Message-ID: <prompt@test>"), "{body}");
    prompt.called("as2");
    silent.called("as2");
    assert!(began.elapsed() < SOON, "they waited for the silent address: {:?}", began.elapsed());
    assert_eq!(silent.posts("mdn"), AT_ONCE, "the silent address has more than its share");
}

/// What the list says about a message, once its MDN is held or given up.
#[track_caller]
fn not_delivered(stage: &Stage, id: &str, why: &str) -> Value {
    let row = stage.gate.wait("the MDN to be held", |gate| {
        let row = stage.listed(id).pop()?;
        let whole = gate.show(row["id"].as_str().unwrap());
        whole["marks"].to_string().contains("MDN not delivered").then_some(whole)
    });
    assert!(row["marks"].to_string().contains(why), "{row:#}");
    row
}

#[test]
fn who_proves_nothing_chooses_no_path_for_an_mdn() {
    let stage = stage();
    let door = Door::open(|_| Some(200));
    let named = door.url("named?x=1");
    partner(&stage, "VAGUE", &door, &["--require-signed", "false", "--mdn-urls", &named]);
    let ask = |entity: &Entity, path: &str| {
        let id = format!("<vague-{}@test>", next());
        let request = entity.message(&id).with("AS2-From", "VAGUE");
        let answer = request.with("Receipt-Delivery-Option", &door.url(path)).post(stage.gate.as2_port);
        assert_eq!(answer.status, 204, "{}", answer.text());
        id
    };
    for unproven in [payload(), payload().signed(&stage.stranger)] {
        for path in ["named", "named?x=2", "other", "?named?x=1"] {
            not_delivered(&stage, &ask(&unproven, path), "no signature proves");
        }
        let before = door.posts("named?x=1");
        ask(&unproven, "named?x=1");
        wait_for("the MDN", || (door.posts("named?x=1") > before).then_some(()));
    }
    assert_eq!(door.hits.lock().unwrap().len(), 2, "a path that nobody named was posted to");
    // Whose signature verifies may have a path for each message.
    ask(&payload().signed(&stage.partner), "free?y=1");
    door.called("free?y=1");
}

#[test]
fn our_login_goes_along_to_the_origin_and_the_addresses_that_are_set() {
    let stage = stage();
    let (own, other) = (Door::open(|_| Some(200)), Door::open(|_| Some(200)));
    let password = stage.gate.file("local/for-receipts.txt", b"secret");
    let password = format!("file:{}", password.display());
    let named = other.url("named");
    let login = ["--http-user", "gate", "--http-password", &password];
    partner(&stage, "ASKS", &own, &[&login[..], &["--mdn-urls", &named]].concat());
    for (door, path, shown) in [
        (&own, "mdn", true),
        (&own, "mdn?order=1", true),
        (&other, "named", true),
        // The sender alone chose these.
        (&other, "named?order=1", false),
        (&other, "mdn", false),
    ] {
        let request = payload().signed(&stage.partner).message(&format!("<asks-{}@test>", next()));
        let request = request.with("AS2-From", "ASKS").with("Receipt-Delivery-Option", &door.url(path));
        assert_eq!(request.post(stage.gate.as2_port).status, 204);
        let hit = door.called(path);
        assert_eq!(hit.message.header("Authorization").is_some(), shown, "{path}: {}", hit.head);
    }
}

#[test]
fn a_repeat_that_asks_elsewhere_takes_no_mdn_away() {
    let stage = stage();
    let status = Arc::new(AtomicU16::new(503));
    let answered = Arc::clone(&status);
    let door = Door::open(move |_| Some(answered.load(Ordering::Relaxed)));
    partner(&stage, "ELSEWHERE", &door, &[]);
    let signed = payload()
        .signed(&stage.partner)
        .message("<repeats@test>")
        .with("AS2-From", "ELSEWHERE");
    let ask = |url: &str| {
        let answer = signed.clone().with("Receipt-Delivery-Option", url).post(stage.gate.as2_port);
        assert_eq!(answer.status, 204, "{}", answer.text());
    };
    ask(&door.url("mdn"));
    door.called("mdn");
    ask("http://elsewhere.test:1/mdn");
    status.store(200, Ordering::Relaxed);
    let row = stage.gate.wait("the MDN to be posted", |gate| {
        let now = gate.show(stage.listed("<repeats@test>").pop()?["id"].as_str()?);
        (now["mdn_at"].is_string() || now["marks"].is_array()).then_some(now)
    });
    assert!(row["mdn_at"].is_string() && row["marks"].is_null(), "{row:#}");
    assert_eq!(row["mdn_url"], door.url("mdn"), "{row:#}");
    // Another address of its own is as good as the first.
    ask(&door.url("other"));
    door.called("other");
}

#[test]
fn an_mdn_that_was_held_or_given_up_goes_out_by_hand() {
    let stage = Stage::new(&[("retry.max_tries", "2")]);
    let status = Arc::new(AtomicU16::new(503));
    let answered = Arc::clone(&status);
    let door = Door::open(move |_| Some(answered.load(Ordering::Relaxed)));
    partner(&stage, "OWED", &door, &["--require-signed", "false"]);
    let gate = &stage.gate;
    let ask = |entity: &Entity, path: &str| {
        let request = entity.message(&format!("<{path}@test>")).with("AS2-From", "OWED");
        let answer = request.with("Receipt-Delivery-Option", &door.url(path)).post(gate.as2_port);
        assert_eq!(answer.status, 204, "{}", answer.text());
    };
    ask(&payload(), "held");
    ask(&payload().signed(&stage.partner), "down");
    let held = not_delivered(&stage, "<held@test>", "no signature proves");
    let down = not_delivered(&stage, "<down@test>", "HTTP 503");
    let id = |row: &Value| row["id"].as_str().unwrap().to_owned();
    let posted = |row: &Value| {
        gate.wait("the MDN to be posted", |gate| {
            let now = gate.show(&id(row));
            now["mdn_at"].is_string().then_some(now)
        })
    };
    // People are told, and what to do.
    assert!(held["hint"].as_str().unwrap().contains("message retry "), "{held:#}");
    assert!(gate.ok(&["message", "show", &id(&held)]).contains("message retry "));
    let allow = format!("as2gate partner set OWED --mdn-urls {}", door.url("held"));
    assert!(held["marks"].to_string().contains(&allow), "{held:#}");

    assert!(
        gate.ok(&["audit", "list", "-o", "json"])
            .contains("MDN not delivered: no signature proves")
    );

    // As long as nothing is mended it is held again, by its last reason.
    gate.ok(&["message", "retry", &id(&held)]);
    let again = gate.wait("another hold", |gate| {
        let now = gate.show(&id(&held));
        (now["updated"] != held["updated"] && now["marks"].is_array()).then_some(now)
    });
    assert_eq!(again["marks"].as_array().unwrap().len(), 1, "{again:#}");
    assert_eq!(door.posts("held"), 0);
    gate.ok(&["partner", "set", "OWED", "--mdn-urls", &door.url("held")]);
    status.store(200, Ordering::Relaxed);
    gate.ok(&["message", "retry", &id(&held)]);
    assert_eq!(posted(&held)["marks"], Value::Null);
    assert_eq!(door.posts("held"), 1);

    // After days it has all its tries again, of the same bytes.
    status.store(503, Ordering::Relaxed);
    gate.set_clock(2 * 24 * 3600);
    gate.ok(&["message", "retry", &id(&down)]);
    wait_for("the first try", || (door.posts("down") == 3).then_some(()));
    status.store(200, Ordering::Relaxed);
    posted(&down);
    let hits = door.hits.lock().unwrap().clone();
    let mut tries = hits.iter().filter(|hit| hit.head.starts_with("POST /down "));
    let first = tries.next().unwrap();
    assert!(tries.all(|next| next.message.body == first.message.body && next.head == first.head));

    // What was receipted in the answer has nothing to be posted.
    let sync = stage.listed("<known-OWED@test>").remove(0);
    let refused = gate.cli(&["message", "retry", &id(&sync)]);
    assert!(refused.code == 1 && refused.stderr.contains("asked for no async MDN"), "{refused}");
}

#[test]
fn an_mdn_is_tried_again_by_the_partners_figures_and_no_sooner_than_it_asks() {
    let stage = stage();
    let door = Door::open(|_| Some(503));
    partner(&stage, "FEW", &door, &["--retry-max-tries", "2"]);
    let request = payload().signed(&stage.partner).message("<few@test>").with("AS2-From", "FEW");
    let answer = request.with("Receipt-Delivery-Option", &door.url("mdn")).post(stage.gate.as2_port);
    assert_eq!(answer.status, 204, "{}", answer.text());
    not_delivered(&stage, "<few@test>", "HTTP 503");
    let at: Vec<_> = door.hits.lock().unwrap().iter().map(|hit| hit.at).collect();
    assert_eq!(at.len(), 2, "the partner's figure is 2 tries");
    // Twice the first wait of the tests, which is 1 s.
    assert!(at[1] - at[0] >= Duration::from_secs(2), "{:?}", at[1] - at[0]);
}

//! The configuration as a whole.

#![allow(clippy::unwrap_used)]
use super::*;

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(CONFIG_FILE);
    std::fs::write(&file, text).unwrap();
    Config::load_with(Some(&file), None, env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

#[test]
fn every_key_has_the_default_of_the_reference() {
    let config = Config::default();
    assert_eq!(config.data_dir, Path::new("/var/lib/as2gate"));
    assert_eq!(config.paths().db, Path::new("/var/lib/as2gate/db/as2gate.db"));
    assert_eq!(config.paths().master_key, Path::new("/var/lib/as2gate/master.key"));
    assert_eq!(config.as2.listen, ["0.0.0.0:8080"]);
    assert_eq!(config.as2.response_timeout, Duration::from_secs(300));
    assert_eq!(config.as2.max_message, 100 << 30);
    assert_eq!((config.as2.keep_partial.as_secs(), config.as2.partial_quota), (86_400, 10 << 30));
    assert_eq!(config.uploads.duplicate_window, Duration::from_secs(21_600));
    assert_eq!(config.uploads.temp_names.len(), 10);
    assert_eq!(config.lifecycle.messages.noncurrent, Duration::from_secs(35 * 86_400));
    assert_eq!(config.lifecycle.run_at, Duration::from_secs(600));
    assert_eq!((config.retry.factor, config.retry.jitter, config.retry.max_tries), (2.0, 0.2, 10));
    assert_eq!(config.storage.min_free, 1 << 30);
    assert_eq!(config.sftp.ban.length, Duration::from_secs(1800));
    assert_eq!(config.values.all().count(), keys::KEYS.len());
}

#[test]
fn the_file_overrides_defaults_and_the_environment_the_file() {
    let text = "data_dir = \"data\"\n[sftp]\nban = { failures = 3 }\n[retry]\ninitial = \"1s\"\nfactor = 3\n";
    let env = [
        ("AS2GATE_RETRY__INITIAL", "5s"),
        ("AS2GATE_AS2__LISTEN", "127.0.0.1:0"),
        ("AS2GATE_ACCOUNT", "acme"),
        ("AS2GATE_PUBLIC_URL", "https://as2.acme.example"),
        ("AS2GATE_TEST_CLOCK", "clock"),
        ("AS2GATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("AS2GATE_SFTP_PORT", "tcp://10.0.0.1:2022"),
        ("AS2GATE_PUBLIC_SERVICE_HOST", "10.0.0.1"),
        ("AS2GATE_AS2__TLS__KEY", "env:AS2GATE_AS2_TLS_KEY"),
        ("AS2GATE_AS2_TLS_KEY", "a secret"),
        ("AS2GATE_BIGMART_PASSWORD", "a secret that env: names"),
        ("AS2GATE_SFTP__BAN__WITHIN", "\"1m\""),
    ];
    let config = load(text, &env).unwrap();
    assert_eq!(config.retry.initial, Duration::from_secs(5));
    assert_eq!(config.retry.factor, 3.0);
    assert_eq!(config.sftp.ban.failures, 3);
    assert_eq!(config.sftp.ban.within, Duration::from_secs(60));
    assert_eq!(config.as2.listen, ["127.0.0.1:0"]);
    assert_eq!(config.public_url, "https://as2.acme.example");
    assert!(
        config.data_dir.ends_with("data") && config.data_dir.is_absolute(),
        "a path in the file starts at the file"
    );
    let (_, setting) = config.values.all().find(|(key, _)| key.path == "sftp.ban.failures").unwrap();
    assert_eq!(setting.source, Source::File(3));
}

#[test]
fn unknown_keys_name_line_and_nearest_key() {
    let error = load("\n[sftp]\nlisen = [\"0.0.0.0:22\"]\n", &[]).unwrap_err();
    assert!(error.what.contains("line 3: unknown key `sftp.lisen`"), "{error}");
    assert!(error.hint.contains("sftp.listen"), "{}", error.hint);
    let error = load("listen = \"x\"\n", &[]).unwrap_err();
    assert!(error.hint.contains("sftp.listen"), "{}", error.hint);
    let error = load("", &[("AS2GATE_SFTP__LISEN", "x")]).unwrap_err();
    assert!(error.what.contains("AS2GATE_SFTP__LISEN"), "{error}");
    for (name, key) in [("AS2GATE_PUBLC_URL", "public_url"), ("AS2GATE_SFTP_LISTEN", "sftp.listen")] {
        let error = load("", &[(name, "x")]).unwrap_err();
        assert!(error.what.starts_with(name) && error.hint.contains(key), "{error:?}");
    }
    assert!(load("", &[("AS2GATE_SFTP", "x")]).is_err(), "a section has no value");
    assert!(
        load("[console]\nlisten = \"127.0.0.1:9080\"\n", &[]).is_err(),
        "later keys are unknown today"
    );
}

#[test]
fn wrong_values_are_named() {
    for (text, why) in [
        ("retry.initial = \"5x\"", "duration"),
        ("retry.max_tries = 0", "from 1"),
        ("sftp.algorithms = \"old\"", "one of"),
        ("sftp.proxy_protocol_from = [\"10.0.0.0/33\"]", "block"),
        ("sftp.allowed_ips = [\"10.0.0.300\"]", "block"),
        ("sftp.rekey_bytes = \"2GiB\"", "key exchanges"),
        ("sftp.login_grace = \"0\"", "more than 0"),
        ("sftp.ban.for = \"0\"", "more than 0"),
        ("uploads.rename_within = \"0h\"", "more than 0"),
        ("as2.connect_timeout = \"0s\"", "more than 0"),
        ("as2.response_timeout = 0", "more than 0"),
        ("retry.initial = \"0ms\"", "more than 0"),
        ("retry.max_time = \"0\"", "more than 0"),
        ("retry.mdn_wait = \"0\"", "more than 0"),
        ("sftp.listen = [\"22\"]", "address"),
        ("as2.tls.listen = [\"0.0.0.0:443\"]", "certificate"),
        ("as2.tls.key = \"-----BEGIN\"", "env:NAME"),
        ("public_url = \"as2.example.com\"", "does not begin with http://"),
        ("public_url = \"https://as2.example.com?tenant=1\"", "has a query"),
        ("public_url = \"https://as2.example.com/#x\"", "or a fragment"),
        ("public_url = \"https://as2.example.com:0\"", "port"),
        ("public_url = \"https://2001:db8::1\"", "without its brackets"),
        ("data_dir = 5", "quotes"),
        ("database.url = \"postgres://x\"", "sqlite"),
        ("lifecycle.run_at = \"24:00\"", "time of day"),
        ("lifecycle.history = \"6d\"", "at least 7d"),
        ("telemetry.log = \"sftp=loud\"", "level filter"),
        ("telemetry.log = \"loud\"", "neither a level"),
        ("sftp = 1", "keys"),
    ] {
        let error = load(text, &[]).unwrap_err();
        assert!(error.why.contains(why), "{text}: {error:?}");
    }
    let long = format!("public_url = \"https://{}.example.com\"", "x".repeat(200));
    assert!(load(&long, &[]).unwrap_err().why.contains("200 characters"));
    assert!(load("data_dir = ", &[]).unwrap_err().what.contains("line 1"));
}

#[test]
fn a_mark_before_a_secret_is_none_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pass.txt");
    for text in ["\u{feff}s3cret\r\n", "s3cret", " s3cret\n"] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(Secret::File(file.clone()).read().unwrap().as_str(), "s3cret", "{text:?}");
    }
}

#[test]
fn an_account_may_keep_records_for_another_time() {
    let own: toml::Table = "messages = { current = \"90d\" }".parse().unwrap();
    let merged = Config::default().lifecycle.with(Some(&own)).unwrap();
    assert_eq!(merged.messages.current, Duration::from_secs(90 * 86_400));
    assert_eq!(merged.messages.noncurrent, Duration::from_secs(35 * 86_400));
    assert!(Config::default().lifecycle.with(Some(&"file = 1".parse().unwrap())).is_err());
    assert_eq!(merged.history, Duration::from_secs(730 * 86_400));
    let own: toml::Table = "history = \"3650d\"".parse().unwrap();
    let merged = Config::default().lifecycle.with(Some(&own)).unwrap();
    assert_eq!(merged.history, Duration::from_secs(3650 * 86_400));
    for wrong in ["history = \"1d\"", "history = 400", "history = { current = \"90d\" }"] {
        assert!(Config::default().lifecycle.with(Some(&wrong.parse().unwrap())).is_err(), "{wrong}");
    }
}

/// The page for people has every key as the table of keys has it.
#[test]
fn the_page_of_the_configuration_is_that_of_the_keys() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIGURATION.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let begin = page.find("\n## Keys before any section\n").unwrap();
    let mut wanted = page[..begin].to_owned();
    let mut last = None;
    for key in keys::KEYS {
        assert!(!key.help.ends_with('.') && !key.help.contains('|'), "{}", key.path);
        let (section, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if last != Some(section) {
            let head = if section.is_empty() {
                "Keys before any section".to_owned()
            } else {
                format!("`[{section}]`")
            };
            wanted.push_str(&format!("\n## {head}\n\n| key | default | meaning |\n|---|---|---|\n"));
            last = Some(section);
        }
        wanted.push_str(&format!("| `{name}` | `{}` | {} |\n", key.default, key.meaning()));
    }
    if page != wanted {
        let new = std::env::temp_dir().join("as2gate-CONFIGURATION.md");
        std::fs::write(&new, wanted).unwrap();
        panic!("the tables differ from keys.rs: cp {} docs/CONFIGURATION.md", new.display());
    }
}

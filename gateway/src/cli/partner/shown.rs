//! `partner show`: the settings that matter, what its product says about itself, and the last messages.

use serde_json::{Value, json};

use super::{headline, object};
use crate::cli::output::{facts, local};
use crate::clock::{Millis, rfc3339};
use crate::gateway::Core;
use crate::hint::listed;
use crate::journal::MessageFilter;
use crate::layout;
use crate::manage::certificates::day;
use crate::manage::{Result, fields};
use crate::message::{Direction, Message};
use crate::objects::Objects;
use crate::partner::{Blocked, Partner};

/// Settings that have a line of their own.
const SHOWN_ABOVE: &[&str] = &[
    "as2_id",
    "account",
    "url",
    "name",
    "email",
    "sign",
    "encrypt",
    "compress",
    "mdn",
    "sign_certificate",
    "encrypt_certificate",
    "blocked",
    "stations",
];

/// The partner for programs and for people.
pub(super) fn partner(core: &Core, all: &Objects, partner: &Partner) -> Result<(Value, String)> {
    let (last_in, last_out) = (last(core, partner, Direction::In)?, last(core, partner, Direction::Out)?);
    let announced = announced(last_in.as_ref());
    let folders = folders(all, partner);
    let mut value = object(partner);
    if let Some(fields) = value.as_object_mut() {
        let at = |message: &Option<Message>| json!(message.as_ref().map(|message| rfc3339(message.created)));
        fields.insert("folders".to_owned(), json!(folders));
        fields.insert("announced".to_owned(), json!(announced));
        fields.insert("last_in".to_owned(), at(&last_in));
        fields.insert("last_out".to_owned(), at(&last_out));
    }
    let now = core.clock.now();
    let mut lines = settings(all, partner);
    lines.extend([
        ("Folders", listed(folders.iter().map(String::as_str), "")),
        ("Announced", announced.join("\n")),
        ("Last in", told(last_in.as_ref(), now)),
        ("Last out", told(last_out.as_ref(), now)),
    ]);
    Ok((value, facts(&lines)))
}

/// Where files for it are put, one for each station that trades with it: its id is spelt there as names of files have to be.
fn folders(all: &Objects, partner: &Partner) -> Vec<String> {
    let pairs = all.pairs(&partner.account).filter(|(_, p)| p.as2_id == partner.as2_id);
    pairs.map(|(s, p)| layout::send_dir(&s.as2_id, &p.as2_id)).collect()
}

fn last(core: &Core, partner: &Partner, direction: Direction) -> Result<Option<Message>> {
    let filter = MessageFilter {
        account: Some(partner.account.clone()),
        partner: Some(partner.as2_id.clone()),
        direction: Some(direction),
        limit: 1,
        ..MessageFilter::default()
    };
    Ok(core.journal.read(|tx| tx.messages(&filter))?.into_iter().next())
}

/// What its product says about itself stands in the headers of its last message; an ETag says that it knows AS2 Restart.
fn announced(last_in: Option<&Message>) -> Vec<String> {
    let telling = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        matches!(name.as_str(), "as2-version" | "user-agent" | "ediint-features" | "server" | "etag")
    };
    let lines = last_in.map(|message| message.detail.headers.lines()).into_iter().flatten();
    lines.filter(telling).map(str::to_owned).collect()
}

fn told(message: Option<&Message>, now: Millis) -> String {
    message.map_or_else(String::new, |m| format!("{}  {}  {}", local(m.created, now), m.file, m.state))
}

fn settings(all: &Objects, partner: &Partner) -> Vec<(&'static str, String)> {
    let described = |name: &String| {
        all.certificate(&partner.account, name)
            .map_or_else(|| name.clone(), |c| format!("{} ({}, expires {})", c.name, c.key, day(c.not_after)))
    };
    let signs_with: Vec<String> = partner.sign_certificate.iter().map(described).collect();
    let encrypt_to = Some(&partner.encrypt_certificate).filter(|name| !name.is_empty()).map(described);
    let blocked = Some(partner.blocked).filter(|blocked| *blocked != Blocked::None);
    let sends = headline(partner)
        .split_once("sign ")
        .map(|(_, rest)| format!("sign {rest}   compress {}", partner.compress));
    vec![
        ("Partner", partner.as2_id.clone()),
        ("Account", partner.account.clone()),
        ("Name", partner.name.clone()),
        ("E-mail", partner.email.clone()),
        ("URL", partner.url.clone()),
        ("Sends to it", sends.unwrap_or_default()),
        ("Signs with", signs_with.join("\n")),
        ("Encrypt to", encrypt_to.unwrap_or_default()),
        ("Stations", partner.stations.join(", ")),
        ("Blocked", blocked.map(|blocked| blocked.to_string()).unwrap_or_default()),
        ("HTTP user", partner.http_auth.user.clone()),
        ("Logs in as", partner.inbound_auth.user.clone()),
        ("Proxy user", partner.proxy_auth.user.clone()),
        ("Settings", others(partner).join("\n")),
    ]
}

/// Every other setting that differs from its default.
fn others(partner: &Partner) -> Vec<String> {
    let defaults = fields::table(&Partner::default());
    let settings = fields::table(&Partner {
        http_auth: Default::default(),
        inbound_auth: Default::default(),
        proxy_auth: Default::default(),
        ..partner.clone()
    });
    let differs = |(name, value): &(&String, &toml::Value)| !SHOWN_ABOVE.contains(&name.as_str()) && defaults.get(*name) != Some(*value);
    let others = settings.iter().filter(differs);
    others.map(|(name, value)| format!("{name} = {value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partner::HttpAuth;

    #[test]
    fn logins_are_shown_without_their_passwords() {
        let login = |user: &str| HttpAuth {
            user: user.to_owned(),
            password: "sealed:x".to_owned(),
        };
        let partner = Partner {
            http_auth: login("out"),
            inbound_auth: login("in"),
            proxy_auth: login("by"),
            ..Partner::default()
        };
        let lines = settings(&Objects::default(), &partner);
        for line in [("HTTP user", "out"), ("Logs in as", "in"), ("Proxy user", "by")] {
            assert!(lines.iter().any(|(name, value)| (*name, value.as_str()) == line), "{lines:?}");
        }
        assert!(!lines.iter().any(|(_, value)| value.contains("sealed")), "{lines:?}");
    }
}

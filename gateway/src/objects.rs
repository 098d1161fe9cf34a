//! All objects at one moment: accounts, stations, partners, certificates, users. There are thousands of them, not millions, and such
//! a snapshot is what the flows work with.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::account::Account;
use crate::certificate::Certificate;
use crate::partner::Partner;
use crate::station::Station;
use crate::user::User;
use crate::words;

words! {
    /// The nouns that are objects.
    pub enum ObjectKind {
        /// Owns the others.
        Account = "account",
        /// One of our AS2 identities.
        Station = "station",
        /// A remote AS2 identity.
        Partner = "partner",
        /// A key pair or trusted certificate.
        Certificate = "certificate",
        /// An SFTP login.
        User = "user",
    }
}

/// Any object; written, it is its fields.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Object {
    /// Owns the others.
    Account(Account),
    /// One of our AS2 identities.
    Station(Station),
    /// A remote AS2 identity.
    Partner(Box<Partner>),
    /// A key pair or trusted certificate.
    Certificate(Box<Certificate>),
    /// An SFTP login.
    User(Box<User>),
}

impl Object {
    /// Its noun.
    #[must_use]
    pub fn kind(&self) -> ObjectKind {
        match self {
            Object::Account(_) => ObjectKind::Account,
            Object::Station(_) => ObjectKind::Station,
            Object::Partner(_) => ObjectKind::Partner,
            Object::Certificate(_) => ObjectKind::Certificate,
            Object::User(_) => ObjectKind::User,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn account(&self) -> &str {
        match self {
            Object::Account(account) => &account.id,
            Object::Station(station) => &station.account,
            Object::Partner(partner) => &partner.account,
            Object::Certificate(certificate) => &certificate.account,
            Object::User(user) => &user.account,
        }
    }

    /// What it is known by.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Object::Account(account) => &account.id,
            Object::Station(station) => &station.as2_id,
            Object::Partner(partner) => &partner.as2_id,
            Object::Certificate(certificate) => &certificate.name,
            Object::User(user) => &user.name,
        }
    }
}

/// A snapshot of all objects.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The journal's version of this snapshot.
    pub version: i64,
    /// By id.
    pub accounts: BTreeMap<String, Account>,
    /// By AS2 id; unique on the server.
    pub stations: BTreeMap<String, Station>,
    /// By account and AS2 id.
    pub partners: BTreeMap<(String, String), Partner>,
    /// By account and name.
    pub certificates: BTreeMap<(String, String), Certificate>,
    /// By name in lower case; unique on the server.
    pub users: BTreeMap<String, User>,
}

impl Objects {
    /// Adds an object, or puts it in the place of the one of its name.
    pub fn put(&mut self, object: Object) {
        let name = object.name().to_owned();
        match object {
            Object::Account(account) => drop(self.accounts.insert(name, account)),
            Object::Station(station) => drop(self.stations.insert(name, station)),
            Object::Partner(partner) => drop(self.partners.insert((partner.account.clone(), name), *partner)),
            Object::Certificate(certificate) => drop(self.certificates.insert((certificate.account.clone(), name), *certificate)),
            Object::User(user) => drop(self.users.insert(name.to_ascii_lowercase(), *user)),
        }
    }

    /// A partner of an account.
    #[must_use]
    pub fn partner(&self, account: &str, as2_id: &str) -> Option<&Partner> {
        self.partners.get(&(account.to_owned(), as2_id.to_owned()))
    }

    /// Whether any account has a partner of this id.
    #[must_use]
    pub fn is_partner(&self, as2_id: &str) -> bool {
        self.accounts.keys().any(|account| self.partner(account, as2_id).is_some())
    }

    /// A certificate of an account.
    #[must_use]
    pub fn certificate(&self, account: &str, name: &str) -> Option<&Certificate> {
        self.certificates.get(&(account.to_owned(), name.to_owned()))
    }

    /// A user, whatever the case of the name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(&name.to_ascii_lowercase())
    }

    /// A user of this account: one of the same name in another is somebody else.
    #[must_use]
    pub fn user_of(&self, account: &str, name: &str) -> Option<&User> {
        self.user(name).filter(|user| user.account == account)
    }

    /// Every object: noun, account and name, in the order of the nouns.
    pub fn all(&self) -> impl Iterator<Item = (ObjectKind, &str, &str)> {
        let of_kind = |kind| self.names(kind).into_iter().map(move |(account, name)| (kind, account, name));
        ObjectKind::ALL.iter().flat_map(move |kind| of_kind(*kind))
    }

    /// Account and name of every object of a noun.
    fn names(&self, kind: ObjectKind) -> Vec<(&str, &str)> {
        match kind {
            ObjectKind::Account => self.accounts.values().map(|a| (&*a.id, &*a.id)).collect(),
            ObjectKind::Station => self.stations.values().map(|s| (&*s.account, &*s.as2_id)).collect(),
            ObjectKind::Partner => self.partners.values().map(|p| (&*p.account, &*p.as2_id)).collect(),
            ObjectKind::Certificate => self.certificates.values().map(|c| (&*c.account, &*c.name)).collect(),
            ObjectKind::User => self.users.values().map(|u| (&*u.account, &*u.name)).collect(),
        }
    }

    /// The pairs of station and partner of an account that have directories, in order.
    pub fn pairs(&self, account: &str) -> impl Iterator<Item = (&Station, &Partner)> {
        self.stations
            .values()
            .filter(move |station| station.account == account)
            .flat_map(move |station| {
                let partners = self.partners.values().filter(move |partner| partner.account == account);
                partners
                    .filter(|partner| partner.trades_with(&station.as2_id))
                    .map(move |partner| (station, partner))
            })
    }
}

//! Which proofs count for a user: keys, certificates, passwords and codes, each with its conditions. Refusals say why, for
//! the log and for `as2gate user log`; the client never learns it.

use std::net::IpAddr;

use keystore::ssh::{KeyOptions, parse_public};
use sftp_front::{Certificate, Method, Presence, Proof, Proven, PublicKey, Refused, Step};

use super::guesses::{Guesses, Outcome};
use super::revoked::Revoked;
use crate::block;
use crate::gateway::Core;
use crate::login::{LoginStep, Progress};
use crate::manage::secrets;
use crate::user::User;

/// What is judged, and by what.
pub(super) struct Judge<'a> {
    pub(super) core: &'a Core,
    pub(super) revoked: &'a Revoked,
    pub(super) guesses: &'a Guesses,
    /// A session that is open is judged, not a login.
    pub(super) is_open: bool,
    pub(super) peer: IpAddr,
    /// Unix seconds.
    pub(super) now: i64,
}

pub(super) fn step_of(method: Method) -> LoginStep {
    match method {
        Method::PublicKey => LoginStep::PublicKey,
        Method::Password => LoginStep::Password,
        Method::Code => LoginStep::Totp,
    }
}

pub(super) fn method_of(step: LoginStep) -> Method {
    match step {
        LoginStep::PublicKey => Method::PublicKey,
        LoginStep::Password => Method::Password,
        LoginStep::Totp => Method::Code,
    }
}

/// A proof in words: the key's fingerprint, the certificate's number.
pub(super) fn describe(proven: &Proven) -> String {
    match proven {
        Proven::Key(key) => match &key.certificate {
            Some(certificate) => format!(
                "certificate {} serial {} of {} ({})",
                certificate.key_id, certificate.serial, certificate.authority_fingerprint, key.fingerprint
            ),
            None => format!("publickey {}", key.fingerprint),
        },
        Proven::Password(_) => "password".to_owned(),
        Proven::Code(_) => "totp".to_owned(),
    }
}

impl Judge<'_> {
    /// Why a user may not log in from here now, whatever the proof.
    fn barred(&self, user: &User) -> Option<String> {
        let current = user.expires.is_empty() || user.expires.parse::<jiff::Timestamp>().is_ok_and(|end| end.as_second() > self.now);
        let place = block::admit(&user.allowed_ips, self.peer);
        if !user.enabled {
            Some("the user is disabled".to_owned())
        } else if !current {
            Some(format!("the user expired at {}", user.expires))
        } else if !place {
            Some(format!("the user may not log in from {} (allowed_ips)", self.peer))
        } else {
            None
        }
    }

    /// Judges a proof after others.
    pub(super) fn prove(&self, user: Option<&User>, given: &[Proven], proof: &Proof) -> Step {
        let mut steps: Vec<LoginStep> = given.iter().map(|proven| step_of(proven.method())).collect();
        let verdict = match proof {
            Proof::Key(key) => {
                steps.push(LoginStep::PublicKey);
                self.signed(user, key)
                    .map_err(|why| format!("{}: {why}", describe(&Proven::Key(key.clone()))))
            }
            Proof::Password(password) => {
                steps.push(LoginStep::Password);
                password_fits(user, password).map_err(|why| format!("password: {why}"))
            }
            Proof::Code(code) => {
                steps.push(LoginStep::Totp);
                self.try_code(user.filter(|_| !given.is_empty()), code)
                    .map_err(|why| format!("totp: {why}"))
            }
        };
        let barred = user.and_then(|user| self.barred(user));
        let progress = user.filter(|_| barred.is_none()).map(|user| user.login.after(&steps));
        // A password can be guessed: who does that must not learn by a penalty that stays away that one is right.
        let is_guess = matches!(proof, Proof::Password(_));
        match (verdict, progress) {
            (Err(why), _) => Step::Refused(Refused::guess(why)),
            (Ok(()), Some(Progress::Complete)) => Step::Complete,
            (Ok(()), Some(Progress::Next(steps))) => Step::Next(steps.into_iter().map(method_of).collect()),
            (Ok(()), Some(Progress::Astray)) => {
                let why = format!("{}: right, but not a step of the user's login", steps_of(&steps));
                Step::Refused(Refused { why, is_guess })
            }
            (Ok(()), None) => {
                let why = format!("right, but {}", barred.unwrap_or_default());
                Step::Refused(Refused { why, is_guess })
            }
        }
    }

    /// Whether what was proven still holds.
    pub(super) fn holds(&self, user: &User, given: &[Proven]) -> bool {
        let steps: Vec<LoginStep> = given.iter().map(|proven| step_of(proven.method())).collect();
        let each = |proven: &Proven| match proven {
            Proven::Key(key) => self.signed(Some(user), key).is_ok(),
            Proven::Password(hash) => user.password == *hash,
            Proven::Code(secret) => user.totp == *secret,
        };
        self.barred(user).is_none() && user.login.after(&steps) == Progress::Complete && given.iter().all(each)
    }

    /// Whether a key is worth a signature. That one of a barred user is no guess tells those who know it already no more than
    /// SSH tells them of all other users.
    pub(super) fn known(&self, user: Option<&User>, key: &PublicKey) -> Result<(), Refused> {
        self.key_fits(user, key).map_err(Refused::guess)?;
        match user.and_then(|user| self.barred(user)) {
            None => Ok(()),
            Some(why) => Err(Refused::right(format!("right, but {why}"))),
        }
    }

    /// A key with its signature: one of a security key tells more.
    fn signed(&self, user: Option<&User>, key: &PublicKey) -> Result<(), String> {
        let options = self.key_fits(user, key)?;
        let critical = |name: &str| {
            key.certificate
                .as_ref()
                .is_some_and(|c| c.critical.iter().any(|(known, _)| known == name))
        };
        let extended = |name: &str| {
            key.certificate
                .as_ref()
                .is_some_and(|c| c.extensions.iter().any(|known| known == name))
        };
        // The line's word and the certificate's, where there are both.
        let untouched = options.no_touch_required && (key.certificate.is_none() || extended("no-touch-required"));
        match key.presence {
            None if key.algorithm.starts_with("sk-") => Err("the security key's signature has no flags".to_owned()),
            Some(Presence { touched: false, .. }) if !untouched => Err("the security key was not touched".to_owned()),
            Some(Presence { verified: false, .. }) if options.verify_required || critical("verify-required") => {
                Err("the security key did not verify its owner".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The options of the line under which a key or certificate counts.
    fn key_fits(&self, user: Option<&User>, key: &PublicKey) -> Result<KeyOptions, String> {
        let revoked = if self.is_open {
            self.revoked.reason_to_end(key)
        } else {
            self.revoked.reason(key)
        };
        if let Some(why) = revoked {
            return Err(why);
        }
        // An unknown user costs the same work: one key is parsed and compared.
        let nobody = [String::from(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        )];
        let lines = user.map_or(&nobody[..], |user| &user.keys[..]);
        let known = lines.iter().flat_map(|line| parse_public(line).unwrap_or_default());
        let name = user.map(|user| user.name.as_str()).unwrap_or_default();
        let mut why = if user.is_some() {
            "not a key of the user's"
        } else {
            "no such user"
        }
        .to_owned();
        let verdicts: Vec<Result<KeyOptions, String>> = match &key.certificate {
            None => known
                .filter(|known| !known.options.cert_authority && known.line == key.openssh)
                .map(|known| self.options_fit(known.options))
                .collect(),
            Some(certificate) => known
                .filter(|known| known.options.cert_authority)
                .chain(self.core.config.sftp.user_ca.iter().cloned().map(|mut trusted| {
                    // It has no line of the user's: what its certificates say counts alone.
                    trusted.options.no_touch_required = true;
                    trusted
                }))
                .filter(|known| known.line == certificate.authority)
                .map(|known| {
                    let options = self.options_fit(known.options)?;
                    self.certificate_fits(certificate, name, &options)?;
                    Ok(options)
                })
                .collect(),
        };
        if key.certificate.is_some() && user.is_some() {
            why = "no authority that is trusted for the user".to_owned();
        }
        let mut refused = Err(why);
        for verdict in verdicts {
            match verdict {
                Ok(options) if user.is_some() => return Ok(options),
                Ok(_) => {}
                Err(why) => refused = Err(why),
            }
        }
        refused
    }

    fn options_fit(&self, options: KeyOptions) -> Result<KeyOptions, String> {
        if !options.allows(self.peer) {
            return Err(format!("not from {} (from=)", self.peer));
        }
        // As at OpenSSH, a time that ends bars logins; a transfer may outlast a certificate of five minutes.
        if !self.is_open && !options.is_current(self.now) {
            return Err("past its expiry-time=".to_owned());
        }
        Ok(options)
    }

    /// The conditions of PROTOCOL.certkeys. That it is its authority's signature is verified already.
    fn certificate_fits(&self, certificate: &Certificate, user: &str, options: &KeyOptions) -> Result<(), String> {
        let now = u64::try_from(self.now).unwrap_or(0);
        if !certificate.for_user {
            return Err("it is a host's certificate".to_owned());
        }
        if now < certificate.valid_after && !self.is_open {
            return Err("not valid yet".to_owned());
        }
        if now >= certificate.valid_before && !self.is_open {
            return Err("no longer valid".to_owned());
        }
        let named = |name: &String| match options.principals.as_slice() {
            [] => name == user,
            principals => principals.contains(name),
        };
        // One that names nobody would be good for everybody: never what was meant.
        if !certificate.principals.iter().any(named) {
            return Err(format!("it is for {}", shown(&certificate.principals)));
        }
        for (name, value) in &certificate.critical {
            match name.as_str() {
                "source-address" => {
                    if !value.split(',').any(|block| block::holds(block.trim(), self.peer)) {
                        return Err(format!("not from {} (source-address)", self.peer));
                    }
                }
                "verify-required" => {}
                "force-command" => return Err("it is for one command (force-command), and there are none here".to_owned()),
                other => return Err(format!("its critical option {} is not known", other.escape_default())),
            }
        }
        Ok(())
    }

    /// A code behind the first step, if this source has not tried too many.
    fn try_code(&self, user: Option<&User>, code: &str) -> Result<(), String> {
        let user = user
            .filter(|user| !user.totp.is_empty())
            .ok_or("the user has no secret for codes")?;
        self.guesses
            .begin(&user.name, self.peer, self.now)
            .map_err(|seconds| format!("too many wrong codes; not looked at for {seconds} s"))?;
        let outcome = self.code_fits(user, code);
        // A fault of ours is no wrong code.
        let counted = *outcome.as_ref().unwrap_or(&Outcome::Used);
        self.guesses.end(&user.name, self.peer, self.now, counted);
        match outcome? {
            Outcome::Right => Ok(()),
            Outcome::Used => Err("a code that was used already".to_owned()),
            Outcome::Wrong => Err("wrong code".to_owned()),
        }
    }

    /// A code counts once: its step is remembered before it does.
    fn code_fits(&self, user: &User, code: &str) -> Result<Outcome, String> {
        let secret = secrets::open_totp(&self.core.master, user).map_err(|refusal| refusal.to_string())?;
        let step = keystore::otp::matching_step(&secret, code, self.now).map_err(|error| error.to_string())?;
        let Some(step) = step else { return Ok(Outcome::Wrong) };
        let key = format!("totp/{}/{}", user.account, user.name);
        let fresh = self.core.journal.write_blocking(move |tx| {
            if tx.number_fact(&key)?.is_some_and(|used| step <= used) {
                return Ok(false);
            }
            tx.set_fact(&key, &step.to_string())?;
            Ok(true)
        });
        let outcome = fresh.map(|fresh| if fresh { Outcome::Right } else { Outcome::Used });
        outcome.map_err(|error| error.to_string())
    }
}

fn password_fits(user: Option<&User>, password: &str) -> Result<(), String> {
    let fits = match user.filter(|user| !user.password.is_empty()) {
        Some(user) => keystore::password_verify(password, &user.password),
        None => keystore::password_verify_nobody(password),
    };
    let why = match user {
        _ if fits => return Ok(()),
        None => "no such user",
        Some(user) if user.password.is_empty() => "the user has no password",
        Some(_) => "wrong",
    };
    Err(why.to_owned())
}

fn steps_of(steps: &[LoginStep]) -> String {
    steps.iter().map(|step| step.as_str()).collect::<Vec<_>>().join(", then ")
}

fn shown(names: &[String]) -> String {
    if names.is_empty() {
        return "nobody: it has no principals".to_owned();
    }
    names
        .iter()
        .map(|name| name.escape_default().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

//! The login of one connection: what the client has proven so far, and as whom. russh speaks RFC 4252 and verifies
//! signatures; which proofs a user needs, and in which order, the [`Authenticator`](crate::Authenticator) says.
//!
//! Everything belongs to one user name: a client that names another begins anew.

use crate::auth::{MAX_CODE, MAX_PASSWORD, Method, Presence, Proof, Proven, PublicKey, Refused, Step, sane_user, usable};
use crate::server::Server;
use crate::session::Session;
use crate::tree::Tree;
use russh::keys::ssh_key::{Certificate, Signature};
use russh::keys::{Algorithm, ssh_key};
use russh::server::Auth;
use russh::{MethodKind, MethodSet};
use std::borrow::Cow;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Keys that one connection may offer; russh counts refused ones only.
const MAX_OFFERS: usize = 32;
/// What a user is asked for a code with.
const CODE_PROMPT: &str = "Verification code: ";

pub(crate) struct Login {
    server: Arc<Server>,
    session: Arc<Session>,
    offers: usize,
    user: Option<String>,
    given: Vec<Proven>,
    /// How the client tries at this moment.
    method: Method,
    /// What may come next.
    next: Vec<Method>,
    /// Of the signature that was verified last: its algorithm, and what it says about a security key's owner.
    signed: Option<(Algorithm, Option<Presence>)>,
    tree: Option<Arc<dyn Tree>>,
}

impl Login {
    pub(crate) fn new(server: Arc<Server>, session: Arc<Session>) -> Self {
        Self {
            server,
            session,
            offers: 0,
            user: None,
            given: Vec::new(),
            method: Method::PublicKey,
            next: Vec::new(),
            signed: None,
            tree: None,
        }
    }

    /// What the client sees, once it has logged in.
    pub(crate) fn tree(&self) -> Option<&Arc<dyn Tree>> {
        self.tree.as_ref()
    }

    /// Every request is about a user; another one than before leaves nothing of what was proven.
    async fn begin(&mut self, user: &str, method: Method) {
        self.tree = None;
        self.method = method;
        if self.user.as_deref() != Some(user) {
            self.user = Some(user.to_owned());
            self.forget().await;
        }
    }

    async fn forget(&mut self) {
        self.given.clear();
        self.next = self.server.ask(|auth| auth.methods()).await.unwrap_or_default();
    }

    fn rejected(&self, partial_success: bool) -> Auth {
        Auth::Reject {
            proceed_with_methods: Some(method_set(&self.next)),
            partial_success,
        }
    }

    fn refuse(&self, user: &str, refused: Refused) -> Auth {
        tracing::info!(session = self.session.id, user = %user.escape_default(), "login refused: {refused}");
        self.session.refused(user, self.method, refused);
        self.rejected(false)
    }

    fn guess(&self, user: &str, why: impl Into<String>) -> Auth {
        self.refuse(user, Refused::guess(why))
    }

    fn fault(&self, user: &str) -> Auth {
        self.refuse(user, Refused::right("a fault of the server"))
    }

    pub(crate) async fn none(&mut self, user: &str) -> Auth {
        self.begin(user, Method::PublicKey).await;
        self.rejected(false)
    }

    /// A key is offered, without a signature or before it is verified; `None` ends the connection.
    pub(crate) async fn offered(
        &mut self,
        user: &str,
        key: &ssh_key::PublicKey,
        certificate: Option<&Certificate>,
        algorithm: &Algorithm,
    ) -> Option<Auth> {
        self.begin(user, Method::PublicKey).await;
        self.offers += 1;
        if self.offers > MAX_OFFERS {
            return None;
        }
        let Some(key) = self.fit(user, key, certificate, algorithm) else {
            return Some(self.guess(user, format!("publickey: no {algorithm} now, or a key that is not taken")));
        };
        let (peer, name, asked) = (self.session.peer(), user.to_owned(), key.clone());
        let known = self.server.ask(move |auth| auth.public_key(&name, &asked, &peer)).await;
        Some(match known {
            Some(Ok(())) => Auth::Accept,
            Some(Err(refused)) => {
                let why = format!("publickey {}: {refused}", key.fingerprint);
                self.refuse(user, Refused { why, ..refused })
            }
            None => self.fault(user),
        })
    }

    pub(crate) fn signature(&mut self, signature: &Signature) {
        self.signed = Some((signature.algorithm(), Presence::of(signature)));
    }

    /// A key or certificate whose signature was verified. An earlier answer may have been about another user or an account
    /// of a minute ago: everything is asked again.
    pub(crate) async fn key(&mut self, user: &str, key: &ssh_key::PublicKey, certificate: Option<&Certificate>) -> Auth {
        self.begin(user, Method::PublicKey).await;
        let signed = self.signed.take();
        let key = signed.and_then(|(algorithm, presence)| {
            let key = self.fit(user, key, certificate, &algorithm)?;
            Some(PublicKey { presence, ..key })
        });
        match key {
            Some(key) => self.prove(user, Proof::Key(key)).await,
            None => self.guess(user, "publickey: none now, or a key that is not taken"),
        }
    }

    fn fit(&self, user: &str, key: &ssh_key::PublicKey, certificate: Option<&Certificate>, algorithm: &Algorithm) -> Option<PublicKey> {
        let allowed = self.server.user_signatures();
        if !sane_user(user) || !self.next.contains(&Method::PublicKey) || !allowed.contains(algorithm) {
            return None;
        }
        usable(key.key_data(), certificate, allowed)
    }

    pub(crate) async fn password(&mut self, user: &str, password: &str) -> Auth {
        self.begin(user, Method::Password).await;
        if !sane_user(user) || !self.next.contains(&Method::Password) || password.len() > MAX_PASSWORD {
            return self.guess(user, "password: none now, or one that is too long");
        }
        self.prove(user, Proof::Password(Zeroizing::new(password.to_owned()))).await
    }

    /// A request for keyboard-interactive: the one question. It is put to everybody who may be asked it.
    pub(crate) async fn question(&mut self, user: &str) -> Auth {
        self.begin(user, Method::Code).await;
        if !sane_user(user) || !self.next.contains(&Method::Code) {
            return self.guess(user, "code: none now");
        }
        Auth::Partial {
            name: Cow::Borrowed(""),
            instructions: Cow::Borrowed(""),
            prompts: Cow::Owned(vec![(Cow::Borrowed(CODE_PROMPT), true)]),
        }
    }

    pub(crate) async fn answer(&mut self, user: &str, answer: Option<&[u8]>) -> Auth {
        // No user was named in this packet: it belongs to the question of before.
        self.method = Method::Code;
        let code = answer
            .filter(|text| text.len() <= MAX_CODE)
            .and_then(|text| std::str::from_utf8(text).ok());
        match code {
            Some(code) if self.user.as_deref() == Some(user) && self.next.contains(&Method::Code) => {
                self.prove(user, Proof::Code(Zeroizing::new(code.to_owned()))).await
            }
            _ => self.guess(user, "code: no usable answer"),
        }
    }

    async fn prove(&mut self, user: &str, proof: Proof) -> Auth {
        // A flood of passwords waits here, not in memory: each takes 19 MiB while it is hashed.
        let turn = match proof {
            Proof::Password(_) => self.server.hashing().acquire().await.ok(),
            _ => None,
        };
        let method = proof.method();
        let (peer, name, given) = (self.session.peer(), user.to_owned(), self.given.clone());
        let judged = self.server.ask(move |auth| {
            let proven = match &proof {
                Proof::Key(key) => Proven::Key(key.clone()),
                Proof::Password(_) => Proven::Password(auth.mark(&name, method)),
                Proof::Code(_) => Proven::Code(auth.mark(&name, method)),
            };
            (auth.prove(&name, &given, &proof, &peer), proven)
        });
        let judged = judged.await;
        drop(turn);
        let Some((step, proven)) = judged else {
            return self.fault(user);
        };
        match step {
            Step::Complete => {
                self.given.push(proven);
                self.enter(user).await
            }
            Step::Next(methods) => {
                tracing::info!(session = self.session.id, user, ?method, "login goes on: one proof more is needed");
                self.given.push(proven);
                self.next = methods;
                self.rejected(true)
            }
            Step::Refused(refused) => {
                if !refused.is_guess {
                    self.session.known(user);
                }
                self.refuse(user, refused)
            }
        }
    }

    async fn enter(&mut self, user: &str) -> Auth {
        let (peer, name, id, given) = (
            self.session.peer(),
            user.to_owned(),
            self.session.id,
            std::mem::take(&mut self.given),
        );
        self.session.deciding(user);
        let refused = match self.server.ask(move |auth| auth.login(&name, &given, &peer, id)).await {
            Some(Ok(tree)) if self.session.logged_in() => {
                self.tree = Some(tree);
                self.tell_tried(user).await;
                return Auth::Accept;
            }
            Some(Ok(_)) => {
                let name = user.to_owned();
                self.server
                    .ask(move |auth| auth.logout(id, &name, "ended while it logged in", 0, 0))
                    .await;
                return self.rejected(false);
            }
            Some(Err(refused)) => refused,
            None => Refused::right("a fault of the server"),
        };
        self.forget().await;
        self.session.proven(user);
        self.refuse(user, refused)
    }

    /// A login of one's own does not undo guesses at others on the same connection.
    async fn tell_tried(&self, user: &str) {
        let (others, peer) = (self.session.tried_beside(user), self.session.peer());
        if !others.is_empty() {
            self.server
                .ask(move |auth| {
                    others
                        .iter()
                        .for_each(|tried| auth.failed(&tried.user, tried.method, &tried.reasons, tried.guessed, &peer));
                })
                .await;
        }
    }
}

/// As russh wants them.
pub(crate) fn method_set(methods: &[Method]) -> MethodSet {
    let kinds: Vec<MethodKind> = methods
        .iter()
        .map(|method| match method {
            Method::PublicKey => MethodKind::PublicKey,
            Method::Password => MethodKind::Password,
            Method::Code => MethodKind::KeyboardInteractive,
        })
        .collect();
    MethodSet::from(kinds.as_slice())
}

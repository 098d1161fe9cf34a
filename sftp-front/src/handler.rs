//! russh's callbacks for one connection: the login, the opening of channels, and a prompt refusal of everything that is not
//! SFTP. russh's own default for most requests is silence, at which clients hang.

use crate::budget::MAX_CHANNELS;
use crate::host_keys::{ANNOUNCE, PROVE};
use crate::login::Login;
use crate::server::{NEAR_WINDOW, Server};
use crate::session::Session;
use russh::keys::ssh_key::{self, Certificate, Signature};
use russh::server::{Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Response, Session as Transport, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Error, Pty, Sig};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What shell, exec and old `scp` are told, on standard error.
pub const SFTP_ONLY: &str = "This service allows sftp connections only.";
/// Channels opened in the life of one connection: the transport keeps a trace of each.
const MAX_CHANNELS_EVER: usize = 10_000;
/// Requests for proofs of host keys that are answered on one connection: each costs signatures.
const MAX_PROOFS: usize = 4;
/// Extended data of type standard error (RFC 4254 §5.2).
const STDERR: u32 = 1;

pub(crate) struct Handler {
    server: Arc<Server>,
    session: Arc<Session>,
    login: Login,
    /// Channels that have no subsystem yet.
    waiting: HashMap<ChannelId, (Channel<Msg>, Place)>,
    places: Arc<AtomicUsize>,
    opened: usize,
    proofs: usize,
}

/// One of the channels that a connection may have at a time.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(places: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        places
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < max).then_some(n + 1))
            .ok()?;
        Some(Self(Arc::clone(places)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler {
    pub(crate) fn new(server: Arc<Server>, session: Arc<Session>) -> Self {
        Self {
            login: Login::new(Arc::clone(&server), Arc::clone(&session)),
            server,
            session,
            waiting: HashMap::new(),
            places: Arc::default(),
            opened: 0,
            proofs: 0,
        }
    }

    /// Answers a request for a program with one line and the exit status 1.
    fn sftp_only(&mut self, id: ChannelId, transport: &mut Transport) -> Result<(), Error> {
        if self.waiting.remove(&id).is_none() {
            return transport.channel_failure(id);
        }
        transport.channel_success(id)?;
        transport.extended_data(id, STDERR, format!("{SFTP_ONLY}\r\n").into_bytes())?;
        transport.exit_status_request(id, 1)?;
        transport.eof(id)?;
        transport.close(id)
    }
}

impl russh::server::Handler for Handler {
    type Error = Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, Error> {
        Ok(self.server.banner())
    }

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Error> {
        Ok(self.login.none(user).await)
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Error> {
        let answer = self.login.offered(user, offer.public_key, offer.certificate, offer.algorithm).await;
        answer.ok_or(Error::Disconnect)
    }

    async fn auth_signature(&mut self, signature: &Signature) -> Result<(), Error> {
        self.login.signature(signature);
        Ok(())
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Error> {
        Ok(self.login.key(user, key.public_key, None).await)
    }

    async fn auth_openssh_certificate(&mut self, user: &str, certificate: &Certificate) -> Result<Auth, Error> {
        let key = ssh_key::PublicKey::new(certificate.public_key().clone(), "");
        Ok(self.login.key(user, &key, Some(certificate)).await)
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Error> {
        Ok(self.login.password(user, password).await)
    }

    async fn auth_keyboard_interactive<'a>(&'a mut self, user: &str, _: &str, response: Option<Response<'a>>) -> Result<Auth, Error> {
        match response {
            None => Ok(self.login.question(user).await),
            Some(mut answers) => {
                let first = answers.next();
                Ok(self.login.answer(user, first.as_deref()).await)
            }
        }
    }

    async fn auth_succeeded(&mut self, transport: &mut Transport) -> Result<(), Error> {
        transport.global_request(ANNOUNCE, &self.server.host_keys().announcement())
    }

    async fn global_request(&mut self, name: &str, data: &[u8], transport: &mut Transport) -> Result<Option<Vec<u8>>, Error> {
        if name != PROVE || self.login.tree().is_none() {
            return Ok(None);
        }
        let Some(session) = transport.session_id() else {
            return Ok(None);
        };
        self.proofs += 1;
        if self.proofs > MAX_PROOFS {
            return Ok(None);
        }
        Ok(self.server.host_keys().prove(session, data))
    }

    fn adjust_window(&mut self, _channel: ChannelId, window: u32) -> u32 {
        if self.session.is_near() { NEAR_WINDOW } else { window }
    }

    async fn channel_open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Transport) -> Result<(), Error> {
        self.opened += 1;
        let place =
            Place::take(&self.places, self.server.config().max_channels.min(MAX_CHANNELS)).filter(|_| self.opened <= MAX_CHANNELS_EVER);
        match place {
            Some(place) => {
                self.waiting.insert(channel.id(), (channel, place));
                reply.accept().await;
            }
            None => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Transport) -> Result<(), Error> {
        self.waiting.remove(&channel);
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, transport: &mut Transport) -> Result<(), Error> {
        if name != "sftp" {
            return transport.channel_failure(id);
        }
        let Some(tree) = self.login.tree() else {
            return transport.channel_failure(id);
        };
        let Some((channel, place)) = self.waiting.remove(&id) else {
            return transport.channel_failure(id);
        };
        transport.channel_success(id)?;
        self.session.serve(channel, Arc::clone(tree), place);
        Ok(())
    }

    async fn shell_request(&mut self, channel: ChannelId, transport: &mut Transport) -> Result<(), Error> {
        self.sftp_only(channel, transport)
    }

    async fn exec_request(&mut self, channel: ChannelId, _command: &[u8], transport: &mut Transport) -> Result<(), Error> {
        self.sftp_only(channel, transport)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        transport: &mut Transport,
    ) -> Result<(), Error> {
        transport.channel_failure(channel)
    }

    async fn env_request(&mut self, channel: ChannelId, _name: &str, _value: &str, transport: &mut Transport) -> Result<(), Error> {
        transport.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        transport: &mut Transport,
    ) -> Result<(), Error> {
        transport.channel_failure(channel)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        transport: &mut Transport,
    ) -> Result<(), Error> {
        transport.channel_failure(channel)
    }

    async fn agent_request(&mut self, _channel: ChannelId, _: &mut Transport) -> Result<bool, Error> {
        Ok(false)
    }

    async fn signal(&mut self, _channel: ChannelId, _signal: Sig, _: &mut Transport) -> Result<(), Error> {
        Ok(())
    }
}

//! russh's callbacks for one connection: the login, the opening of channels, and a prompt refusal of everything that is not
//! SFTP. russh's own default for most requests is silence, at which clients hang.

use crate::auth::{PublicKey, sane_user, usable};
use crate::server::Server;
use crate::session::Session;
use crate::tree::Tree;
use russh::keys::Algorithm;
use russh::server::{Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session as Transport, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Error, Pty, Sig};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What shell, exec and old `scp` are told, on standard error.
pub const SFTP_ONLY: &str = "This service allows sftp connections only.";
/// Keys that one connection may offer; russh counts refused ones only.
const MAX_OFFERS: usize = 32;
/// Channels opened in the life of one connection: the transport keeps a trace of each.
const MAX_CHANNELS_EVER: usize = 10_000;
/// Extended data of type standard error (RFC 4254 §5.2).
const STDERR: u32 = 1;

pub(crate) struct Handler {
    server: Arc<Server>,
    session: Arc<Session>,
    offers: usize,
    /// Set by a verified login only.
    tree: Option<Arc<dyn Tree>>,
    /// Channels that have no subsystem yet.
    waiting: HashMap<ChannelId, (Channel<Msg>, Place)>,
    places: Arc<AtomicUsize>,
    opened: usize,
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
            server,
            session,
            offers: 0,
            tree: None,
            waiting: HashMap::new(),
            places: Arc::default(),
            opened: 0,
        }
    }

    /// Whether the policy, the key's form and the authenticator allow this key.
    async fn allowed(&self, user: &str, key: &russh::keys::PublicKey, algorithm: &Algorithm) -> Option<PublicKey> {
        if !self.server.signature_allowed(algorithm) || !sane_user(user) {
            return None;
        }
        let key = usable(key)?;
        let (peer, name, asked) = (self.session.peer(), user.to_owned(), key.clone());
        let known = self.server.ask(move |auth| auth.public_key(&name, &asked, &peer)).await;
        (known == Some(true)).then_some(key)
    }

    async fn login(&mut self, user: &str, key: PublicKey) -> bool {
        let (peer, name, id) = (self.session.peer(), user.to_owned(), self.session.id);
        self.session.deciding(user);
        match self.server.ask(move |auth| auth.login(&name, &key, &peer, id)).await {
            Some(Ok(tree)) if self.session.logged_in() => {
                self.tree = Some(tree);
                true
            }
            Some(Ok(_)) | None => false,
            Some(Err(refused)) => {
                tracing::info!(session = id, user, "login refused: {refused}");
                false
            }
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

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Error> {
        self.offers += 1;
        if self.offers > MAX_OFFERS {
            return Err(Error::Disconnect);
        }
        if self.allowed(user, offer.public_key, offer.algorithm).await.is_some() {
            return Ok(Auth::Accept);
        }
        self.session.refused(user);
        Ok(Auth::reject())
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Error> {
        // An earlier answer may have been about another user or an account of a minute ago: ask again, trust only this.
        self.tree = None;
        if let Some(key) = self.allowed(user, key.public_key, key.algorithm).await
            && self.login(user, key).await
        {
            return Ok(Auth::Accept);
        }
        self.session.refused(user);
        Ok(Auth::reject())
    }

    async fn channel_open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Transport) -> Result<(), Error> {
        self.opened += 1;
        let place = Place::take(&self.places, self.server.config().max_channels).filter(|_| self.opened <= MAX_CHANNELS_EVER);
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
        let Some(tree) = &self.tree else {
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

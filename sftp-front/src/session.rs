//! One SSH connection from accept to logout: its timers, its end, and what its channels share. The transport runs in a
//! task of russh's; this file watches over it from outside and ends it through the kill switch of the [`Link`].

use crate::auth::{Method, Peer, Refused};
use crate::budget::{Budget, Pool, REQUEST_BUDGET};
use crate::channel::Channel;
use crate::engine::{Engine, Shared};
use crate::handler::Handler;
use crate::link::{Link, LinkState};
use crate::lock::locked;
use crate::server::{Server, Slot, stopped};
use crate::tree::Tree;
use russh::server::Msg;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A peer that takes no byte of a write for so long is gone.
pub const WRITE_STALL: Duration = Duration::from_secs(120);
/// User names of one connection that are remembered as tried in vain.
const MAX_TRIED: usize = 16;
/// Reasons that are remembered for each.
const MAX_REASONS: usize = 8;
/// A client that leaves requests unfinished for so long while memory is short has to go.
const UNFINISHED: Duration = Duration::from_secs(30);
/// How often the timers are looked at.
const TICK: Duration = Duration::from_millis(500);
/// The same while the server is stopping.
const STOP_TICK: Duration = Duration::from_millis(50);
/// How long a connection that we end may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

const STOPPING: &str = "the server is stopping";
const GRACE_OVER: &str = "no login within the grace time";

/// A session that has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Number of the session, unique in the life of the server.
    pub id: u64,
    /// The user.
    pub user: String,
    /// The client.
    pub peer: Peer,
    /// When the connection was accepted.
    pub since: SystemTime,
    /// Bytes received on the wire so far.
    pub bytes_in: u64,
    /// Bytes sent on the wire so far.
    pub bytes_out: u64,
}

/// When a connection last did something: a request that arrived, an answer that left.
pub(crate) struct Activity {
    born: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn touch(&self) {
        self.last_ms.store(
            u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    fn idle(&self) -> Duration {
        self.born
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

pub(crate) struct Session {
    pub(crate) id: u64,
    addr: SocketAddr,
    since: SystemTime,
    born: Instant,
    link: Arc<LinkState>,
    activity: Arc<Activity>,
    shared: Arc<Shared>,
    budget: Arc<Budget>,
    slot: Slot,
    end: watch::Sender<Option<&'static str>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    user: Option<String>,
    logged_in: bool,
    tried: Vec<Tried>,
    channels: Vec<Weak<Channel>>,
    tasks: Vec<JoinHandle<()>>,
    cut: bool,
}

/// A user name that was refused.
pub(crate) struct Tried {
    pub(crate) user: String,
    pub(crate) reasons: Vec<String>,
    /// Something wrong was shown for it: a word, or a key and no right one since.
    pub(crate) guessed: bool,
    /// That was a word, such as a password.
    pub(crate) word: bool,
    /// What was tried last.
    pub(crate) method: Method,
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer {
            addr: self.addr,
            client: self.link.client().to_owned(),
        }
    }

    /// The session as others see it, from the moment at which its login is being decided.
    pub(crate) fn info(&self) -> Option<SessionInfo> {
        let user = self.state().user.clone()?;
        let (bytes_in, bytes_out) = self.link.bytes();
        Some(SessionInfo {
            bytes_in,
            bytes_out,
            id: self.id,
            user,
            peer: self.peer(),
            since: self.since,
        })
    }

    pub(crate) fn is_logged_in(&self) -> bool {
        self.state().logged_in
    }

    pub(crate) fn is_near(&self) -> bool {
        self.link.is_near()
    }

    /// Ends the connection soon; the first reason counts.
    pub(crate) fn end(&self, reason: &'static str) {
        self.end.send_if_modified(|end| end.is_none() && end.replace(reason).is_none());
    }

    /// Remembers a user name that was refused, and why.
    pub(crate) fn refused(&self, user: &str, method: Method, refused: Refused) {
        let word = refused.is_guess && method != Method::PublicKey;
        let mut state = self.state();
        state.user = None;
        let tried = &mut state.tried;
        if let Some(tried) = tried.iter_mut().find(|tried| tried.user == user) {
            tried.guessed |= refused.is_guess;
            tried.word |= word;
            tried.method = method;
            if tried.reasons.len() < MAX_REASONS {
                tried.reasons.push(refused.why);
            }
        } else if tried.len() < MAX_TRIED {
            tried.push(Tried {
                user: user.to_owned(),
                reasons: vec![refused.why],
                guessed: refused.is_guess,
                word,
                method,
            });
        }
    }

    /// All the right proofs came: what was shown for this user before was no guess, but the other keys of an agent, or a slip.
    pub(crate) fn proven(&self, user: &str) {
        let mut state = self.state();
        let of_user = state.tried.iter_mut().filter(|tried| tried.user == user);
        of_user.for_each(|tried| (tried.guessed, tried.word) = (false, false));
    }

    /// A right key came that is not enough: other keys were no guesses, but it excuses no wrong password.
    pub(crate) fn known(&self, user: &str) {
        let mut state = self.state();
        let of_user = state.tried.iter_mut().filter(|tried| tried.user == user);
        of_user.for_each(|tried| tried.guessed = tried.word);
    }

    /// Takes out the names that were tried in vain before this user's login.
    pub(crate) fn tried_beside(&self, user: &str) -> Vec<Tried> {
        let mut tried = std::mem::take(&mut self.state().tried);
        tried.retain(|tried| tried.user != user);
        tried
    }

    /// Names the user before the login is decided, so that an account that is removed meanwhile finds the session.
    pub(crate) fn deciding(&self, user: &str) {
        self.state().user = Some(user.to_owned());
    }

    /// Completes the login; false if the session was ended meanwhile, or is being ended: then nobody says farewell for it.
    pub(crate) fn logged_in(&self) -> bool {
        let mut state = self.state();
        if state.cut || self.end.borrow().is_some() {
            return false;
        }
        state.logged_in = true;
        drop(state);
        self.slot.logged_in();
        self.link.logged_in();
        self.activity.touch();
        true
    }

    /// Serves SFTP on a channel. `held` is dropped when the channel has ended.
    pub(crate) fn serve(&self, channel: russh::Channel<Msg>, tree: Arc<dyn Tree>, held: impl Send + 'static) {
        let mut state = self.state();
        if state.cut {
            return;
        }
        let engine = Engine::new(tree, self.link.client().to_owned(), Arc::clone(&self.shared));
        let served = Channel::new(engine, Arc::clone(&self.budget), Arc::clone(&self.activity));
        state.channels.retain(|c| c.strong_count() > 0);
        state.tasks.retain(|t| !t.is_finished());
        state.channels.push(Arc::downgrade(&served));
        state.tasks.push(tokio::spawn(async move {
            served.serve(channel).await;
            drop(held);
        }));
    }

    fn channels(&self) -> Vec<Arc<Channel>> {
        self.state().channels.iter().filter_map(Weak::upgrade).collect()
    }

    /// Nothing is being uploaded, run or sent.
    fn is_quiet(&self) -> bool {
        self.shared.uploads.load(Ordering::SeqCst) == 0 && self.channels().iter().all(|c| c.is_idle())
    }

    /// Waits for a reason to end the connection from our side.
    async fn overseer(&self, server: &Server, mut stop: watch::Receiver<bool>) -> &'static str {
        let config = server.config();
        let mut end = self.end.subscribe();
        let mut stopping: Option<Instant> = None;
        loop {
            let tick = if stopping.is_some() { STOP_TICK } else { TICK };
            tokio::select! {
                reason = ended(&mut end) => return reason,
                () = self.budget.must_go() => return "answers left unread while memory is short",
                () = stopped(&mut stop), if stopping.is_none() => {
                    stopping = Some(Instant::now());
                    self.shared.stopping.store(true, Ordering::SeqCst);
                }
                () = tokio::time::sleep(tick) => {}
            }
            let logged_in = self.is_logged_in();
            if let Some(since) = stopping
                && (!logged_in || since.elapsed() > config.drain || self.is_quiet())
            {
                return STOPPING;
            }
            if !logged_in && self.born.elapsed() > config.login_grace {
                return GRACE_OVER;
            }
            if u128::from(self.link.write_blocked_ms()) > WRITE_STALL.as_millis() {
                return "the client takes no data";
            }
            if self.budget.is_greedy() && self.activity.idle() > UNFINISHED && !self.is_working() {
                return "unfinished requests while memory is short";
            }
            let is_idle = !config.idle_timeout.is_zero() && self.activity.idle() > config.idle_timeout;
            if logged_in && is_idle && !self.is_working() {
                return "idle";
            }
        }
    }

    /// A request is being run. A client that does not read its answers does not count: it may be idle all the same.
    fn is_working(&self) -> bool {
        self.channels().iter().any(|c| c.is_working())
    }

    fn cut(&self) {
        self.state().cut = true;
        self.channels().iter().for_each(|c| c.cut());
    }
}

async fn ended(end: &mut watch::Receiver<Option<&'static str>>) -> &'static str {
    let reason = end.wait_for(Option::is_some).await;
    reason.ok().and_then(|r| *r).unwrap_or("ended by the server")
}

/// Serves one client whose requests come from a pipe, without SSH: for tests against suites that drive an `sftp-server`.
///
/// # Errors
/// The pipes'.
pub async fn serve_pipe(tree: Arc<dyn Tree>, input: impl AsyncRead + Unpin, output: impl AsyncWrite + Unpin) -> io::Result<()> {
    let engine = Engine::new(tree, String::new(), Arc::default());
    let budget = Budget::new(Pool::new(REQUEST_BUDGET));
    Channel::new(engine, budget, Arc::new(Activity::new()))
        .serve_pipe(input, output)
        .await
}

/// Serves one accepted connection to its end.
pub(crate) async fn run(server: Arc<Server>, tcp: TcpStream, addr: SocketAddr, slot: Slot, stop: watch::Receiver<bool>) {
    if let Err(e) = tcp.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {e}");
    }
    let link = Arc::new(LinkState::new());
    let session = Arc::new(Session {
        id: server.next_session(),
        addr,
        since: SystemTime::now(),
        born: Instant::now(),
        link: Arc::clone(&link),
        activity: Arc::new(Activity::new()),
        shared: Arc::default(),
        budget: Budget::new(server.pool()),
        slot,
        end: watch::Sender::new(None),
        state: Mutex::default(),
    });
    server.register(&session);
    let reason = serve(&server, &session, tcp, &link, stop).await;
    link.kill();
    // The channels run what had arrived (unless they were cut) and abandon their open uploads; this does not need russh.
    let tasks = std::mem::take(&mut session.state().tasks);
    for task in tasks {
        let _ = task.await;
    }
    server.unregister(session.id);
    farewell(&server, &session, &link, reason).await;
}

/// Speaks SSH until the client or the overseer ends it; why.
async fn serve(server: &Arc<Server>, session: &Arc<Session>, tcp: TcpStream, link: &Arc<LinkState>, stop: watch::Receiver<bool>) -> String {
    let handler = Handler::new(Arc::clone(server), Arc::clone(session));
    let handle = Mutex::new(None);
    let transport = async {
        let running = russh::server::run_stream(server.transport(), Link::new(tcp, Arc::clone(link)), handler).await?;
        *locked(&handle) = Some(running.handle());
        running.await
    };
    tokio::pin!(transport);
    tokio::select! {
        result = &mut transport => match result {
            Ok(()) => "ended by the client".to_owned(),
            Err(e) => {
                if let russh::Error::NoCommonAlgo { kind, theirs, .. } = &e {
                    server.tell_no_algorithm(&session.peer(), kind, theirs);
                }
                e.to_string()
            }
        },
        reason = session.overseer(server, stop) => {
            let handle = locked(&handle).take();
            if let Some(handle) = handle {
                let goodbye = async {
                    let _ = handle.disconnect(russh::Disconnect::ByApplication, reason.to_owned(), String::new()).await;
                    let _ = (&mut transport).await;
                };
                let _ = tokio::time::timeout(GOODBYE, goodbye).await;
            }
            session.cut();
            link.kill();
            reason.to_owned()
        }
    }
}

/// Tells the authenticator how it ended: a logout, the logins that failed, or that there was none in time.
async fn farewell(server: &Server, session: &Session, link: &LinkState, reason: String) {
    let (user, tried) = {
        let mut state = session.state();
        (state.user.take().filter(|_| state.logged_in), std::mem::take(&mut state.tried))
    };
    let (id, addr, peer) = (session.id, session.addr, session.peer());
    let (bytes_in, bytes_out) = link.bytes();
    tracing::debug!(session = id, %addr, "connection ended: {reason}");
    server
        .ask(move |auth| match user {
            Some(user) => auth.logout(id, &user, &reason, bytes_in, bytes_out),
            None if tried.is_empty() && reason == GRACE_OVER => auth.mute(&peer),
            None => tried
                .iter()
                .for_each(|tried| auth.failed(&tried.user, tried.method, &tried.reasons, tried.guessed, &peer)),
        })
        .await;
}

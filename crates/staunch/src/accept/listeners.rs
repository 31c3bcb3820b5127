//! Which listeners are open: those of the configuration, and no others, also after it has changed.
//!
//! New sockets are bound first; only when all of them are there does anything change. A listener
//! whose address stays keeps its socket, so nobody who knocks at that moment is turned away, and
//! sessions go on, if their listener is another one now up to their next MAIL.

use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bind::{self, Acceptor};
use super::certificates::Certificates;
use super::inherited::Inherited;
use super::listener::{self, ListenerSite};
use super::shared::SessionsShared;
use crate::accept::facts::AcceptFact;
use crate::accept::listener_view::{ListenerView, OpenListener};
use crate::config::{
    BareNewlines, ClientInReceived, Config, ListenAddress, Listener, ListenerMode, MissingHeaders,
};
use crate::delivery::outbound::Outbound;
use crate::lock::lock;

/// Of the path of a `[[listener]]`: owner and group.
const LISTENER_SOCKET_MODE: u32 = 0o660;
/// Of the submit socket: every user of this machine.
const SUBMIT_SOCKET_MODE: u32 = 0o666;

/// A listener of the configuration.
#[derive(Clone, Debug)]
struct WantedListener {
    /// The key that names its address.
    key: &'static str,
    listener: Listener,
    /// Of its socket, if that has a path.
    socket_mode: u32,
}

#[derive(Debug)]
struct BoundListener {
    address: ListenAddress,
    /// Permissions of its socket, if that has a path; a reload may change them.
    socket_mode: u32,
    view: watch::Sender<Arc<ListenerView>>,
    /// Where it really listens.
    tcp: Vec<SocketAddr>,
    close: CancellationToken,
}

/// A listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {address}: {source}{hint}")]
pub(crate) struct BindError {
    key: &'static str,
    address: ListenAddress,
    source: io::Error,
    hint: &'static str,
}

/// What [`Listeners::prepare`] has made and [`Listeners::apply`] takes.
#[derive(Debug)]
pub(crate) struct PreparedListeners(Vec<PreparedListener>);

#[derive(Debug)]
struct PreparedListener {
    view: Arc<ListenerView>,
    socket_mode: u32,
    source: SocketSource,
}

/// Where the socket of a listener comes from.
#[derive(Debug)]
enum SocketSource {
    Kept,
    New(Vec<Acceptor>),
}

#[derive(Debug)]
pub(crate) struct Listeners {
    site: ListenerSite,
    outbound: Arc<Outbound>,
    inherited: Inherited,
    certificates: Arc<Certificates>,
    open: Mutex<Vec<BoundListener>>,
}

impl BoundListener {
    /// A path may go from `[submit]` to a listener, or the other way: its socket stays, and is for
    /// others now.
    fn let_in(&mut self, socket_mode: u32) {
        let ListenAddress::Unix(path) = &self.address else { return };
        if self.socket_mode == socket_mode {
            return;
        }
        match std::fs::set_permissions(path, Permissions::from_mode(socket_mode)) {
            Ok(()) => self.socket_mode = socket_mode,
            // The next reload tries again.
            Err(error) => AcceptFact::SocketModeKept { path, socket_mode, error: &error }.tell(),
        }
    }
}

impl Listeners {
    /// None is open yet. Those that come in are tasks of `tracker`, and all listeners close at
    /// `stop`.
    pub(crate) fn new(
        shared: Arc<SessionsShared>,
        outbound: Arc<Outbound>,
        inherited: Inherited,
        stop: CancellationToken,
    ) -> Self {
        let tracker = outbound.tracker.clone();
        let certificates = Arc::new(Certificates::default());
        tracker.spawn(Arc::clone(&certificates).watch(stop.clone()));
        let site = ListenerSite { shared, tracker, stop };
        Self { site, outbound, inherited, certificates, open: Mutex::default() }
    }

    /// Makes whatever it takes to open the listeners of `config`; [`Listeners::apply`] then opens
    /// those that are not open and closes the others. A built-in listener is left out on a system
    /// without its address family, as long as another one is there. Reads files.
    ///
    /// # Errors
    ///
    /// [`BindError`] for the first address that cannot be had; everything is as it was.
    pub(crate) fn prepare(&self, config: &Config) -> Result<PreparedListeners, BindError> {
        self.certificates.look();
        let mut kept: Vec<ListenAddress> = {
            let open = lock(&self.open);
            open.iter().map(|listener| listener.address.clone()).collect()
        };
        let mut listeners = Vec::new();
        let mut left_out = None;
        for wanted in wanted(config) {
            let address = &wanted.listener.address;
            let socket_mode = wanted.socket_mode;
            let source = if let Some(at) = kept.iter().position(|open| open == address) {
                kept.swap_remove(at);
                SocketSource::Kept
            } else {
                match bind::bind(address, socket_mode, &self.inherited) {
                    Ok(acceptors) => SocketSource::New(acceptors),
                    Err(source) => {
                        let is_forgiven =
                            wanted.listener.is_default && bind::is_family_missing(&source);
                        let error = self.cannot_bind(wanted, source);
                        if !is_forgiven {
                            return Err(error);
                        }
                        left_out = Some(error);
                        continue;
                    }
                }
            };
            let view = Arc::new(self.view(wanted.listener));
            listeners.push(PreparedListener { view, socket_mode, source });
        }
        let is_built_in = |listener: &PreparedListener| listener.view.listener.is_default;
        match left_out {
            Some(error) if !listeners.iter().any(is_built_in) => Err(error),
            Some(_) | None => Ok(PreparedListeners(listeners)),
        }
    }

    fn cannot_bind(&self, wanted: WantedListener, source: io::Error) -> BindError {
        let address = wanted.listener.address;
        let is_ours = self.listening().iter().any(|own| match &address {
            ListenAddress::Tcp(tcp) => own.port() == tcp.port(),
            ListenAddress::Unix(_) | ListenAddress::Systemd(_) => false,
        });
        let hint = match &address {
            _ if is_ours && source.kind() == ErrorKind::AddrInUse => {
                "; it overlaps a listener that is open: if that one goes, restart"
            }
            ListenAddress::Tcp(tcp) => bind::hint(*tcp, &source),
            ListenAddress::Unix(_) | ListenAddress::Systemd(_) => "",
        };
        BindError { key: wanted.key, address, source, hint }
    }

    fn view(&self, listener: Listener) -> ListenerView {
        let certificate = listener.tls.as_ref().map(|identity| self.certificates.of(identity));
        ListenerView { listener, certificate }
    }

    /// Makes the listeners those that were prepared. Cannot fail.
    pub(crate) fn apply(&self, prepared: PreparedListeners) {
        let mut open = lock(&self.open);
        let mut before = std::mem::take(&mut *open);
        for PreparedListener { view, socket_mode, source } in prepared.0 {
            let kept = before.iter().position(|listener| listener.address == view.listener.address);
            match (source, kept) {
                (SocketSource::Kept, Some(at)) => {
                    let mut listener = before.remove(at);
                    listener.let_in(socket_mode);
                    listener.view.send_replace(view);
                    open.push(listener);
                }
                // Only a bug could make it so: nothing closes listeners but this.
                (SocketSource::Kept, None) => {}
                (SocketSource::New(acceptors), _) => {
                    open.push(self.open_listener(view, socket_mode, acceptors));
                }
            }
        }
        for gone in before {
            AcceptFact::ListeningEnded { address: &gone.address }.tell();
            gone.close.cancel();
        }
        let listening = open.iter().flat_map(|listener| listener.tcp.iter().copied()).collect();
        self.outbound.listening.replace(listening);
    }

    fn open_listener(
        &self,
        view: Arc<ListenerView>,
        socket_mode: u32,
        acceptors: Vec<Acceptor>,
    ) -> BoundListener {
        let address = view.listener.address.clone();
        let close = self.site.stop.child_token();
        let (sender, view) = watch::channel(view);
        let listener = OpenListener(view);
        let tcp: Vec<_> = acceptors.iter().filter_map(Acceptor::tcp_address).collect();
        for acceptor in acceptors {
            let real =
                acceptor.tcp_address().map_or_else(|| address.to_string(), |a| a.to_string());
            AcceptFact::Listening { address: real }.tell();
            let (site, close) = (self.site.clone(), close.clone());
            let listening = listener::listen(acceptor, listener.clone(), site, close);
            self.site.tracker.spawn(listening);
        }
        BoundListener { address, socket_mode, view: sender, tcp, close }
    }

    fn listening(&self) -> Vec<SocketAddr> {
        let open = lock(&self.open);
        open.iter().flat_map(|listener| listener.tcp.iter().copied()).collect()
    }
}

/// The listeners that `config` has: its listeners, and last the one for programs of this machine.
fn wanted(config: &Config) -> Vec<WantedListener> {
    let listeners = config.listeners.iter().map(|listener| WantedListener {
        key: "listener.address",
        listener: listener.clone(),
        socket_mode: LISTENER_SOCKET_MODE,
    });
    let submit = WantedListener {
        key: "submit.socket",
        listener: Listener {
            address: ListenAddress::Unix(config.submit.socket.clone()),
            mode: ListenerMode::Relay,
            tls: None,
            proxy_protocol_from: Vec::new(),
            bare_newline: BareNewlines::Reject,
            require_tls: false,
            missing_headers: MissingHeaders::Added,
            client_in_received: ClientInReceived::Shown,
            is_default: false,
        },
        socket_mode: SUBMIT_SOCKET_MODE,
    };
    listeners.chain([submit]).collect()
}

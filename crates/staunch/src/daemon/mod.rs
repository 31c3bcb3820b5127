//! The daemon's life: everything is opened and bound before it says that it is ready; a stop lets
//! what runs end within its grace. There is nothing to save on exit, since starting after `kill -9`
//! is the normal start.

pub(crate) mod check_files;
pub(crate) mod check_listeners;
pub(crate) mod descriptors;
pub(crate) mod facts;
pub(crate) mod listener_changes;
pub(crate) mod named_files;
pub(crate) mod pinned;
pub(crate) mod reload;
pub(crate) mod replaced;
pub(crate) mod setup;
pub(crate) mod start_findings;

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use policy::clock::{ClockTrust, Moment};
use rustix::process::getuid;
use sd_notify::NotifyState;
use spool::{Health, OpenError, Spool, StoreError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{self, Inherited, Listeners};
use crate::auth::{Auth, secret};
use crate::budget::Budget;
use crate::clock::ClockWatch;
use crate::config::{Config, Loaded};
use crate::connect::Connector;
use crate::connect::pool::Pool;
use crate::connect::tls::load_roots;
use crate::control::admin::{self, AdminSocketError};
use crate::control::{Control, RELOADS_MAX, ReloadRequest};
use crate::daemon::facts::DaemonFact;
use crate::daemon::named_files::NamedFiles;
use crate::daemon::pinned::PinnedLog;
use crate::daemon::reload::{ConfigOrigin, Reloader};
use crate::daemon::setup::SetupError;
use crate::delivery::listening::Listening;
use crate::delivery::outbound::Outbound;
use crate::dns::Resolver;
use crate::lock::lock;
use crate::policies::{HostMemory, PolicyCache, WaitingMail};
use crate::queue::events::Event;
use crate::queue::handle::QueueHandle;
use crate::queue::intake::Intake;
use crate::queue::switches::Switches;
use crate::queue::waiting::QueuedMail;
use crate::queue::{EVENTS_MAX, Queue, damaged, deadline, gathering, sweep};
use crate::reloadable::Reloadable;
use crate::schedule::after;
use crate::socket_file::OwnName;

/// How often free space and the store's health are looked at.
const VITALS_EVERY: Duration = Duration::from_secs(1);
/// How often it is asked whether the wall clock went back.
const WAITS_EVERY: Duration = Duration::from_secs(60);
/// After the grace is over: for telling clients so.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Whatever the operator's waits are: policies and local trouble defer for an hour at most.
const WAIT_MAX: Duration = Duration::from_secs(2 * 60 * 60);

/// Why the daemon cannot run, or had to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The data directory cannot be used.
    #[error("data_dir: {}{}", .0, as_whom(.0))]
    Open(#[from] OpenError),
    /// The store cannot be read.
    #[error("data_dir: {0}")]
    Store(#[from] StoreError),
    /// The configuration cannot be put to work here.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The socket of the command line cannot be opened.
    #[error(transparent)]
    Admin(#[from] AdminSocketError),
    /// Signals cannot be received.
    #[error("signals: {0}")]
    Signals(#[source] io::Error),
    /// A sync failed while it ran, or the queue's task ended.
    #[error("data_dir: a sync failed, or a bug: the queue has to be read anew: start again")]
    Poisoned,
}

/// Who may not, which in a container nobody sees from outside.
fn as_whom(error: &OpenError) -> String {
    let OpenError::Io { source, .. } = error else { return String::new() };
    if source.kind() == io::ErrorKind::PermissionDenied {
        format!("; this process runs as user id {}", getuid().as_raw())
    } else {
        String::new()
    }
}

fn setup(error: impl Into<SetupError>) -> RunError {
    RunError::Setup(error.into())
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// [`RunError`] when it cannot start, or must not go on.
pub(crate) async fn run(
    loaded: Loaded,
    origin: ConfigOrigin,
    inherited: Inherited,
) -> Result<(), RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let (sender, config) = watch::channel(Arc::new(loaded.config.clone()));
    let users = Auth::prepare(loaded.config.users_file()).map_err(setup)?;
    let spool = open(&loaded.config)?;
    let auth = Auth::new(users, &secret::of(&loaded.config.data_dir).map_err(setup)?);
    let (handle, events) = assemble(config.clone(), spool)?;
    look_at_vitals(&handle).await;
    let admin_socket = admin::bind(&loaded.config.admin.socket)?;
    let admin_name = OwnName::of(&loaded.config.admin.socket)
        .map_err(|source| AdminSocketError { path: loaded.config.admin.socket.clone(), source })?;

    let stop = CancellationToken::new();
    let intake = Intake::new(Arc::clone(&handle));
    let shared =
        accept::SessionsShared::new(config, intake, Arc::clone(&auth), Arc::clone(&handle.budget));
    let listeners =
        Listeners::new(Arc::clone(&shared), Arc::clone(&handle.outbound), inherited, stop.clone());
    let listeners = Arc::new(listeners);
    let prepared = listeners.prepare(&loaded.config).map_err(setup)?;
    cut_waits(&handle)?;
    let queue = Queue::open(Arc::clone(&handle), events)?;
    let tracker = handle.tracker.clone();
    tracker.spawn(run_queue(queue, Arc::clone(&handle), stop.clone()));
    tracker.spawn(damaged::check_all(Arc::clone(&handle), stop.clone()));
    tracker.spawn(sweep::run(Arc::clone(&handle), stop.clone()));
    tracker.spawn(deadline::watch(Arc::clone(&handle), stop.clone()));
    tracker.spawn(gathering::watch(Arc::clone(&handle), stop.clone()));
    tracker.spawn(vitals(Arc::clone(&handle), stop.clone()));
    tracker.spawn(watch_clock(Arc::clone(&handle), stop.clone()));
    tracker.spawn(watch_waits(Arc::clone(&handle), stop.clone()));
    tracker.spawn(keep_policies(Arc::clone(&handle), stop.clone()));
    let (reloads, requests) = mpsc::channel(RELOADS_MAX);
    let control = Arc::new(Control {
        queue: Arc::clone(&handle),
        reloads,
        log: origin.log.clone(),
        stop: stop.clone(),
    });
    tracker.spawn(admin::serve(admin_socket, control, stop.clone()));
    listeners.apply(prepared);
    tracker.spawn(auth.watch(stop.clone()));

    let files: Vec<_> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    DaemonFact::Ready {
        config: &loaded.config,
        files: files.join(" "),
        queued_messages: handle.messages.load(Ordering::Relaxed),
    }
    .tell();
    tell_systemd(&[NotifyState::Ready]);
    let reloader = Reloader {
        origin,
        files: NamedFiles::of(&loaded.config),
        loaded,
        config: sender,
        handle: Arc::clone(&handle),
        shared,
        listeners,
    };
    let result = Box::pin(live(&mut signals, reloader, requests)).await;
    end(&mut signals, &handle, &stop, admin_name).await;
    result
}

fn open(config: &Config) -> Result<Spool, RunError> {
    let spool = Spool::open(&config.data_dir, spool::Options::default())?;
    if let Some(kind) = spool.report().network_file_system {
        DaemonFact::NetworkFileSystem { kind }.tell();
    }
    replaced::tell(&spool);
    replaced::tell_of_queue(&spool);
    replaced::tell_of_logs(&spool);
    Ok(spool)
}

/// Reloads whenever it is asked to, until it is asked to stop or the store breaks.
async fn live(
    signals: &mut Signals,
    mut reloader: Reloader,
    mut requests: mpsc::Receiver<ReloadRequest>,
) -> Result<(), RunError> {
    let broken = reloader.handle.broken.clone();
    loop {
        let request = tokio::select! {
            _ = signals.term.recv() => return Ok(()),
            _ = signals.int.recv() => return Ok(()),
            _ = signals.hup.recv() => None,
            () = broken.cancelled() => return Err(RunError::Poisoned),
            Some(request) = requests.recv() => Some(request),
        };
        // systemd wants to know when the reload began (sd_notify(3)).
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell_systemd(&[NotifyState::Reloading, now]),
            Err(error) => {
                let what = "the monotonic clock is not known";
                DaemonFact::SystemdUnreachable { error: &error, what }.tell();
            }
        }
        // Files may lie on a disk that does not answer: that must not keep the daemon alive.
        let result = tokio::select! {
            result = reloader.reload() => result,
            () = signals.stop() => return Ok(()),
        };
        tell_systemd(&[NotifyState::Ready]);
        if let Some(request) = request {
            // Whoever asked may have gone; the log has it, too.
            let _gone = request.send(result.map_err(|refused| refused.to_string()));
        }
    }
}

/// No new mail and no new attempts; what runs has its grace, or until a second signal.
async fn end(
    signals: &mut Signals,
    handle: &QueueHandle,
    stop: &CancellationToken,
    admin_name: OwnName,
) {
    let config = handle.config();
    tell_systemd(&[NotifyState::Stopping]);
    DaemonFact::Stopping { grace: config.shutdown_grace }.tell();
    stop.cancel();
    handle.outbound.pool.close();
    handle.tracker.close();
    tokio::select! {
        () = handle.tracker.wait() => {}
        () = tokio::time::sleep(config.shutdown_grace + LAST_WORDS) => {}
        () = signals.stop() => {}
    }
    drop(admin_name);
    let unfinished = handle.tracker.len();
    handle.spool.close();
    let queued_messages = handle.messages.load(Ordering::Relaxed);
    DaemonFact::Stopped { queued_messages, unfinished }.tell();
}

/// Everything that delivers, not yet running. Also for a walk without a daemon.
///
/// # Errors
///
/// [`RunError`].
pub(crate) fn assemble(
    config: watch::Receiver<Arc<Config>>,
    spool: Spool,
) -> Result<(Arc<QueueHandle>, mpsc::Receiver<Event>), RunError> {
    let today = Arc::clone(&config.borrow());
    let tracker = TaskTracker::new();
    let dns = Resolver::new(&today.dns).map_err(setup)?;
    let clock = ClockWatch::open(&spool)?;
    let store = spool.policies().clone();
    let watched = (clock.clone(), tracker.clone());
    let policies =
        PolicyCache::new(config.clone(), dns.clone(), store.clone(), watched).map_err(setup)?;
    let (messages, switches) = (count(&spool), Switches::open(spool.clone())?);
    let outbound = Outbound {
        dns,
        policies,
        hosts: HostMemory::new(store, clock.clone()),
        clock,
        connector: Connector::new(&today, tracker.clone()).map_err(setup)?,
        pool: Pool::new((&*today).into(), tracker.clone()),
        roots: Reloadable::new(load_roots(&today.tls).map_err(setup)?),
        tracker,
        listening: Listening::default(),
        config,
        spool,
    };
    let budget = Budget::new(accept::shares(&today.limits));
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let handle = QueueHandle::new(Arc::new(outbound), (switches, messages), budget, sender);
    Ok((Arc::new(handle), events))
}

/// Without the queue's task mail would be taken and never sent, so its end is that of the daemon.
async fn run_queue(queue: Queue, handle: Arc<QueueHandle>, stop: CancellationToken) {
    if AssertUnwindSafe(queue.run(stop)).catch_unwind().await.is_err() {
        DaemonFact::QueuePanicked.tell();
        handle.broken.cancel();
    }
}

/// Keeps free space and the store's health in view.
async fn vitals(handle: Arc<QueueHandle>, stop: CancellationToken) {
    let (lost, detached) = (AtomicU64::new(0), AtomicBool::new(false));
    let pinned = Mutex::new(PinnedLog::default());
    let every = || async {
        tokio::time::sleep(VITALS_EVERY).await;
        look_at_vitals(&handle).await;
        tell_of_lost_bodies(&handle, &lost);
        damaged::tell_mended(&handle).await;
        look_around(&handle, &detached);
        let mut log = lock(&pinned);
        log.look(handle.spool.pinned().as_ref(), Instant::now());
    };
    while stop.run_until_cancelled(every()).await.is_some() {}
}

async fn look_at_vitals(handle: &Arc<QueueHandle>) {
    if handle.spool.health() == Health::Poisoned {
        handle.broken.cancel();
    }
    let spool = handle.spool.clone();
    match tokio::task::spawn_blocking(move || spool.space()).await {
        Ok(Ok(space)) if space.inodes > 0 => {
            handle.free.look(space.free_bytes());
        }
        Ok(Ok(_)) => handle.free.look(0),
        Ok(Err(error)) => {
            DaemonFact::StoreFailed { error: &error, what: "free space is not known" }.tell();
        }
        Err(_) => {}
    }
}

/// Is the data directory still where others look for it? Told once, and when it is back.
fn look_around(handle: &QueueHandle, told: &AtomicBool) {
    match handle.spool.look_around() {
        Ok(false) => {}
        Ok(true) => {
            DaemonFact::LockRenewed.tell();
        }
        Err(error) => {
            let what = "data_dir/lock was removed";
            DaemonFact::StoreFailed { error: &error, what }.tell();
        }
    }
    let health = handle.spool.health();
    let (is_detached, is_read_only) = (health == Health::Detached, health == Health::ReadOnly);
    let is_out = is_detached || is_read_only;
    if told.swap(is_out, Ordering::Relaxed) == is_out {
        return;
    }
    if is_detached {
        DaemonFact::DataDirReplaced.tell();
    } else if is_read_only {
        DaemonFact::DataDirReadOnly.tell();
    } else {
        DaemonFact::DataDirBack.tell();
    }
}

/// The store has no log of its own.
fn tell_of_lost_bodies(handle: &QueueHandle, told: &AtomicU64) {
    let lost = handle.spool.lost_bodies();
    if told.swap(lost, Ordering::Relaxed) < lost {
        DaemonFact::BodiesLost { count: lost }.tell();
    }
}

/// Messages in the queue. Damage is no reason not to start: counted anew once it is mended.
fn count(spool: &Spool) -> u64 {
    match spool.count() {
        Ok(counts) => counts.messages,
        Err(error) => {
            DaemonFact::StoreFailed { error: &error, what: "the queue could not be counted" }
                .tell();
            0
        }
    }
}

async fn watch_clock(handle: Arc<QueueHandle>, stop: CancellationToken) {
    handle.clock.run(&handle.spool, &stop).await;
}

/// What waits longer than anything may wait got its time from a clock that was ahead: it is due
/// now. Nothing of that is known while the clock is suspect. Returns what waits no longer than
/// until then. Blocks for a commit.
fn cut_waits(handle: &QueueHandle) -> Result<Option<Timestamp>, StoreError> {
    let Moment { now, clock, .. } = handle.clock.moment();
    match clock {
        ClockTrust::Trusted => {}
        ClockTrust::Suspect => return Ok(None),
    }
    let longest = handle.config().delivery.retry.iter().max().copied().unwrap_or_default();
    let latest = after(now, longest.saturating_mul(2).max(WAIT_MAX));
    let count = handle.spool.cut_waits(now, latest)?;
    if count > 0 {
        DaemonFact::WaitsCut { count }.tell();
    }
    Ok(Some(latest))
}

/// The same whenever the time goes back, and when the clock is trusted again.
async fn watch_waits(handle: Arc<QueueHandle>, stop: CancellationToken) {
    let mut last = handle.clock.moment();
    while stop.run_until_cancelled(tokio::time::sleep(WAITS_EVERY)).await.is_some() {
        let moment = handle.clock.moment();
        if moment.now < last.now || moment.trusted_since != last.trusted_since {
            wait_anew(&handle).await;
        }
        last = moment;
    }
}

/// Cuts the waits in the store, then those in memory.
async fn wait_anew(handle: &Arc<QueueHandle>) {
    let cutting = Arc::clone(handle);
    match tokio::task::spawn_blocking(move || cut_waits(&cutting)).await {
        Ok(Ok(Some(latest))) => handle.tell(Event::CutWaits { latest }).await,
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            DaemonFact::StoreFailed { error: &error, what: "waits could not be cut" }.tell();
        }
        Err(_) => {}
    }
}

async fn keep_policies(handle: Arc<QueueHandle>, stop: CancellationToken) {
    let queued = QueuedMail::new(handle.spool.clone(), handle.outbound.config.clone());
    let waiting: Arc<dyn WaitingMail> = Arc::new(queued);
    handle.outbound.policies.run(&stop, &waiting).await;
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        DaemonFact::SystemdUnreachable { error: &error, what: "systemd was not told" }.tell();
    }
}

/// A file grew beyond the process's limit. Caught, it is an error of that write, which is answered
/// as a full disk; uncaught, it would end the process.
const SIGXFSZ: i32 = 25;

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    _file_size: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    /// Returns when a signal asks for the end. A SIGHUP is not lost, it waits for [`live`].
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

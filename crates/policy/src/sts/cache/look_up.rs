//! One look-up of one domain's policy as a machine without I/O: what is asked, fetched, written and
//! answered, in this order. Whoever drives it does what an [`LookUpEffect`] says, and tells what
//! came of it.
//!
//! The order of the writes is the guarantee across crashes. That a domain has an `enforce` policy
//! is remembered beside the mail *before* the first such policy is stored, and changed or forgotten
//! *after* another one has taken its place; no answer is given before both are on the disk. So at
//! any instant a stored `enforce` policy is either read, or missed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Alarm, CachedPolicy, DeferCause, Deferral, FetchFailure, KeepSettings, Listed, Moment,
    NoPolicy, Plan, PolicyFile, State, Step, TxtAnswer, Verdict, later,
};
use crate::sts::MxPattern;
use crate::sts::record::Id;

#[cfg(test)]
mod tests;

/// Our choice: what could not be stored is tried again after this long.
const STORE_RETRY: Duration = Duration::from_secs(60);

/// What the store has about a domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stored {
    /// The row of the domain, decoded.
    Row(Box<State>),
    /// No row: never stored, or forgotten.
    Absent,
    /// Something that cannot be read.
    Damaged,
}

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LookUpEffect {
    /// Ask for the TXT record, then [`LookUp::answered`].
    Ask,
    /// Fetch the policy, then [`LookUp::fetched`], or [`LookUp::not_fetched`].
    Fetch,
    /// Write, wait until that is on the disk, then [`LookUp::written`].
    Write(Write),
    /// The look-up is over, with this for the mail.
    Answer(Verdict),
}

/// A change of the store; each is whole or not at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Write {
    /// Remember beside the mail that there is such a policy.
    List(Listed),
    /// Store [`LookUp::state`] in the place of the row that is there.
    Replace,
    /// The same, but nobody has to wait for it: only when the domain was used changed.
    Note,
    /// Forget beside the mail that there was such a policy.
    Unlist,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    /// It is on the disk.
    Synced,
    /// It is not, for a damaged page or a full disk.
    Failed,
}

/// Is there room for the policy of one more domain?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Room {
    /// There is: a new policy may be stored.
    Free,
    /// There is none: a new policy holds for the mail that fetched it, and is not stored.
    None,
}

/// Who wants to know?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    Mail,
    Refresh,
    Order,
}

/// A look-up under way.
#[derive(Debug)]
pub struct LookUp {
    purpose: Purpose,
    settings: KeepSettings,
    before: State,
    state: State,
    fetching: Option<Id>,
    writes: VecDeque<Write>,
    /// What is being written.
    writing: Option<Write>,
    /// What is remembered beside the mail now.
    listed: Option<Listed>,
    is_unstored: bool,
    /// A row with another requirement is on the disk, whatever became of the writes after it.
    is_moved: bool,
    answer: Verdict,
    alarms: Vec<Alarm>,
}

impl LookUp {
    /// For mail. `listed` is what is remembered beside it.
    pub fn for_mail(stored: Stored, listed: Option<Listed>, settings: KeepSettings) -> Self {
        Self::new(Purpose::Mail, stored, listed, settings)
    }

    /// For a policy that is to be fetched again, whatever the record says (RFC 8461 §3.3).
    pub fn for_refresh(stored: Stored, listed: Option<Listed>, settings: KeepSettings) -> Self {
        Self::new(Purpose::Refresh, stored, listed, settings)
    }

    /// For an operator who wants the policy fetched now, whatever limits and back-off say.
    pub fn for_order(stored: Stored, listed: Option<Listed>, settings: KeepSettings) -> Self {
        Self::new(Purpose::Order, stored, listed, settings)
    }

    fn new(
        purpose: Purpose,
        stored: Stored,
        listed: Option<Listed>,
        settings: KeepSettings,
    ) -> Self {
        let row = match stored {
            Stored::Row(state) => *state,
            // Whose policy may have been lost is on the list; everybody else is a first contact.
            Stored::Absent | Stored::Damaged => State::default(),
        };
        let state = State { listed, ..row };
        Self {
            purpose,
            settings,
            before: state.clone(),
            state,
            fetching: None,
            writes: VecDeque::new(),
            writing: None,
            listed,
            is_unstored: false,
            is_moved: false,
            answer: Verdict::NoPolicy(NoPolicy::Fetch(None)),
            alarms: Vec::new(),
        }
    }

    /// What an earlier look-up could not store ([`LookUp::is_unstored`]): it is as good as stored,
    /// until a restart.
    pub fn remember_unstored(&mut self, state: State) {
        let listed = self.state.listed;
        self.state = State { listed, ..state };
        self.before = self.state.clone();
    }

    /// Does [`LookUp::state`] hold, although the row could not be written? It is remembered beside
    /// the mail that there is such a policy, so after a restart it was lost.
    pub fn is_unstored(&self) -> bool {
        self.is_unstored
    }

    /// A policy of this domain that was not stored.
    pub fn remember_fleeting(&mut self, kept: Option<Arc<CachedPolicy>>) {
        self.before.fleeting.clone_from(&kept);
        self.state.fleeting = kept;
    }

    /// All that is known now.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// All that was known before.
    pub fn before(&self) -> &State {
        &self.before
    }

    /// What the record named, once a fetch is wanted.
    pub fn fetching(&self) -> Option<&Id> {
        self.fetching.as_ref()
    }

    /// The alarms raised since this was asked last.
    pub fn take_alarms(&mut self) -> Vec<Alarm> {
        std::mem::take(&mut self.alarms)
    }

    /// Does another requirement hold after this than before? Then what was begun under that one has
    /// to begin anew. A policy that holds only for the mail that fetched it says nothing about
    /// other mail, which may have begun under no policy at all: so what holds for all counts, too.
    pub fn changes_the_requirement(&self, moment: Moment) -> bool {
        self.is_moved || self.binds_otherwise(moment)
    }

    fn binds_otherwise(&self, moment: Moment) -> bool {
        bound(&self.before, moment) != bound(&self.state, moment)
            || bound_for_all(&self.before, moment) != bound_for_all(&self.state, moment)
    }

    /// What DNS says.
    pub fn answered(&mut self, answer: &TxtAnswer, moment: Moment) -> LookUpEffect {
        match self.purpose {
            Purpose::Mail => {
                let plan = self.state.plan(answer, moment, &self.settings);
                match self.told(plan) {
                    Plan::Fetch { id } => self.fetch(id),
                    Plan::Decided(verdict) => self.decided(verdict, moment),
                }
            }
            Purpose::Refresh => match self.fetched_id(answer) {
                Some(id) if self.is_due(&id, moment) => self.fetch(id),
                Some(_) | None => self.as_it_was(moment),
            },
            Purpose::Order => match self.fetched_id(answer) {
                Some(id) => self.fetch(id),
                None => {
                    let plan = self.state.plan(answer, moment, &self.settings);
                    match self.told(plan) {
                        // Only for a usable record, and there is none.
                        Plan::Fetch { .. } => self.as_it_was(moment),
                        Plan::Decided(verdict) => self.decided(verdict, moment),
                    }
                }
            },
        }
    }

    /// Somebody may have fetched it while it waited to be refreshed.
    fn is_due(&self, id: &Id, moment: Moment) -> bool {
        let due = self.state.refresh_at(moment, u8::MAX, &self.settings);
        let is_due = due.is_some_and(|at| at <= moment.now) || self.state.is_lost(moment);
        is_due && self.state.may_fetch(id, moment.now)
    }

    fn fetched_id(&self, answer: &TxtAnswer) -> Option<Id> {
        match answer {
            TxtAnswer::Usable(id) => Some(id.clone()),
            TxtAnswer::Unusable(_) | TxtAnswer::Failed(_) => match &self.state.kept {
                Some(kept) => Some(kept.id().clone()),
                None => self.state.listed.map(|_| Id::unknown()),
            },
        }
    }

    fn fetch(&mut self, id: Id) -> LookUpEffect {
        self.fetching = Some(id);
        LookUpEffect::Fetch
    }

    /// What the policy host gave. Without room for one more, a policy of a domain that had none
    /// holds for this mail only: the domain stays a first contact.
    pub fn fetched(
        &mut self,
        fetched: Result<PolicyFile, FetchFailure>,
        room: Room,
        moment: Moment,
    ) -> LookUpEffect {
        let Some(id) = self.fetching.take() else { return self.as_it_was(moment) };
        let step = self.state.after_fetch(id, fetched, moment, &self.settings);
        let verdict = self.told(step);
        let is_stranger = self.before.kept.is_none() && self.before.listed.is_none();
        if is_stranger && room == Room::None {
            let kept = self.state.kept.take();
            self.state.fleeting = kept.or_else(|| self.state.fleeting.take());
            self.state.known_since = None;
        }
        self.decided(verdict, moment)
    }

    /// No fetch was possible for reasons of our own until now: nothing was learnt, and `until` is
    /// when to try again.
    pub fn not_fetched(&mut self, until: jiff::Timestamp, moment: Moment) -> LookUpEffect {
        self.fetching = None;
        let verdict = if let Some(kept) = self.state.live(moment) {
            Verdict::Use(kept)
        } else {
            Verdict::Defer(Deferral { until, cause: DeferCause::OwnLimit })
        };
        self.decided(verdict, moment)
    }

    /// What became of the write that was wanted last.
    pub fn written(&mut self, written: Written, moment: Moment) -> LookUpEffect {
        let what = self.writing.take();
        match (written, what) {
            (Written::Synced, Some(Write::List(entry))) => self.listed = Some(entry),
            (Written::Synced, Some(Write::Unlist)) => self.listed = None,
            (Written::Synced, Some(Write::Replace)) => {
                self.is_moved |= self.binds_otherwise(moment);
            }
            (Written::Synced, Some(Write::Note) | None) => {}
            (Written::Failed, Some(Write::Replace)) => self.not_stored(moment),
            (Written::Failed, _) => self.not_known(moment),
        }
        self.next()
    }

    /// The row cannot be written: a page of its file is damaged, or the disk is full. An `enforce`
    /// policy holds all the same, if it is remembered beside the mail that this very one was known.
    fn not_stored(&mut self, moment: Moment) {
        self.writes.clear();
        match self.state.to_list(moment) {
            Some(entry) => {
                self.is_unstored = true;
                self.state.listed = Some(entry);
                self.writes.extend((self.listed != Some(entry)).then_some(Write::List(entry)));
            }
            None => self.not_known(moment),
        }
    }

    /// What is not on the disk is not known after a crash, so nothing may be done that hangs on it.
    fn not_known(&mut self, moment: Moment) {
        self.writes.clear();
        self.is_unstored = false;
        let hangs_on_it = self.binds_otherwise(moment);
        self.state = State { listed: self.listed, ..self.before.clone() };
        if hangs_on_it {
            let until = later(moment.now, STORE_RETRY);
            self.answer = Verdict::Defer(Deferral { until, cause: DeferCause::Store });
        }
    }

    fn told<T>(&mut self, step: Step<T>) -> T {
        self.alarms.extend(step.alarm);
        step.decision
    }

    /// Nothing was done, and what held before holds.
    fn as_it_was(&mut self, moment: Moment) -> LookUpEffect {
        let verdict = match self.state.live(moment) {
            Some(kept) => Verdict::Use(kept),
            None if self.state.is_lost(moment) => {
                let until = later(moment.now, STORE_RETRY);
                Verdict::Defer(Deferral { until, cause: DeferCause::Lost(None) })
            }
            None => Verdict::NoPolicy(NoPolicy::Fetch(None)),
        };
        self.decided(verdict, moment)
    }

    fn decided(&mut self, verdict: Verdict, moment: Moment) -> LookUpEffect {
        self.answer = verdict;
        let listed = self.state.to_list(moment);
        let row = self.row_write();
        match (self.before.listed, listed) {
            (None, Some(entry)) => self.writes.extend([Write::List(entry)].into_iter().chain(row)),
            (Some(before), Some(entry)) => {
                self.writes.extend(row);
                self.writes.extend((before != entry).then_some(Write::List(entry)));
            }
            (Some(_), None) => self.writes.extend(row.into_iter().chain([Write::Unlist])),
            (None, None) => self.writes.extend(row),
        }
        self.state.listed = listed;
        self.next()
    }

    fn row_write(&self) -> Option<Write> {
        let unmarked = |state: &State| State {
            none_seen_at: None,
            first_used_at: None,
            last_used_at: None,
            fleeting: None,
            listed: None,
            ..state.clone()
        };
        let is_same = |a: &State, b: &State| {
            (a.none_seen_at, a.first_used_at, a.last_used_at)
                == (b.none_seen_at, b.first_used_at, b.last_used_at)
        };
        if unmarked(&self.state) != unmarked(&self.before) {
            Some(Write::Replace)
        } else if !is_same(&self.state, &self.before) {
            Some(Write::Note)
        } else {
            None
        }
    }

    fn next(&mut self) -> LookUpEffect {
        self.writing = self.writes.pop_front();
        match self.writing {
            Some(write) => LookUpEffect::Write(write),
            None => LookUpEffect::Answer(self.answer.clone()),
        }
    }
}

/// What a domain asks of every MX, or that this is not known.
#[derive(Debug, Eq, PartialEq)]
enum Bound {
    Nothing,
    To(Arc<[MxPattern]>),
    Unknown,
}

/// What binds the mail that asked.
fn bound(state: &State, moment: Moment) -> Bound {
    if state.live(moment).is_none() && !state.is_lost(moment) {
        return required(state.fleeting.as_deref());
    }
    bound_for_all(state, moment)
}

/// What binds everybody's mail.
fn bound_for_all(state: &State, moment: Moment) -> Bound {
    if state.is_lost(moment) {
        return Bound::Unknown;
    }
    required(state.live(moment).as_deref())
}

fn required(policy: Option<&CachedPolicy>) -> Bound {
    match policy.and_then(CachedPolicy::requirement) {
        Some(patterns) => Bound::To(Arc::clone(patterns)),
        None => Bound::Nothing,
    }
}

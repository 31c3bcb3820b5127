//! Accepted mail and policy state survive.
//!
//! A message that [`Spool::commit`] has acknowledged is on stable storage: kill -9 or power loss at
//! any instant loses nothing. What is recorded together takes effect together. SQLite holds
//! messages, recipients, lanes and policies, files hold large bodies; nothing of either crosses
//! this border. The states a message can be in, and what a crash at each step leaves, are in
//! `docs/spool.md`.
//!
//! No clock, no network, no async: writes end in a callback on the writer's thread, reads block.

pub use crate::acting::{Acted, ActedRow};
pub use crate::ages::AgeSlice;
pub use crate::backup::{Copied, CopiedPolicies, CopyError, backup};
pub use crate::body::StoredBody;
pub use crate::damage::{CheckCursor, Checked, Damage, DamagedRecipient, MESSAGE_DAMAGED};
pub use crate::draft::{Draft, INLINE_BODY_MAX, Sealed};
pub use crate::due::{BodyRef, Due, DueCursor, DuePage, DueRecipient};
pub use crate::enforced::{Enforced, EnforcedList};
pub use crate::error::{OpenError, StoreError};
pub use crate::examine::{Cure, DamageFinding, Examined, examine};
pub use crate::export::{Export, Exported};
pub use crate::foreign_readers::{ForeignReader, Pinned};
pub use crate::id::{BadId, BadIdPrefix, ID_CHARS, ID_PREFIX_MIN, IdPrefix, IdSource, MessageId};
pub use crate::imported::Import;
pub use crate::lane_rows::Swept;
pub use crate::listing::{
    Counts, Filter, ListCursor, ListPage, MessageDetail, QueueRow, RecipientPlace, Selection,
};
pub use crate::marks::Marks;
pub use crate::mend::Mended;
pub use crate::message::{
    Attempt, BodyBytes, BodyFacts, Change, Deadline, LaneKey, LaneState, LaneSummary, LaneTrouble,
    LaneUpdate, MessageOptions, NewMessage, NewRecipient, RECIPIENTS_MAX, RecipientDeferral,
    RecipientNo, RecipientOptions, RecipientState, Settled, Settlement, StoredEnvelope,
    StoredProblem, Told, turn,
};
pub use crate::opening::{OpenReport, Options, PoliciesFile, Space};
pub use crate::overdue::{Overdue, OverdueCursor, OverduePage};
pub use crate::policies::{FoundPolicy, HostRow, Policies, PolicyPage, PolicyRow};
pub use crate::proven::Proven;
pub use crate::relane::Move;
pub use crate::repair::{Repaired, repair};
pub use crate::restore::{Restored, restore};
pub use crate::spool::{SettlePermit, Spool};
pub use crate::vitals::Health;

// In reading order: the nouns, a message's way in, its way out, the machinery.
mod error;
mod id;
mod mend;
mod message;

mod acting;
mod ages;
mod around;
mod arrival;
mod backup;
mod body;
mod carve;
mod checksum;
mod commit;
mod damage;
mod database_lock;
mod draft;
mod due;
mod enforced;
mod examine;
mod export;
mod foreign_readers;
mod hold_reasons;
mod imported;
mod incoming;
mod journal;
mod listing;
mod marks;
mod opening;
mod overdue;
mod policies;
mod proven;
mod repair;
mod restore;
mod spool;
mod waiting;
mod waiting_lanes;
mod walk;

mod housekeeper;
mod lane_rows;
mod layout;
mod log;
mod readers;
mod relane;
mod reserve;
mod rows;
mod schema;
mod upgrade;
mod vitals;
mod writer;

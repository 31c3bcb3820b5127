//! The end-to-end suite: promises to users, kept by the real binary against a small internet on
//! loopback. One target with modules, because each further target would link the whole program
//! again.
//!
//! | module | promise |
//! | --- | --- |
//! | [`meanwhile`] | what becomes known, or is ordered, while mail is tried holds for it |
//! | [`matrix`] | each mode meets each fault of an MX as decided |
//! | [`downgrade`] | whoever breaks DNS or HTTPS gains nothing, also across restarts |
//! | [`lost`] | policies that cannot be read any more make their own mail wait, and no other |
//! | [`http`] | what a policy host may answer, row by row |
//! | [`cache`] | what becomes of a policy that is kept, row by row |
//! | [`names`] | domains of every script are domains |
//! | [`resolvers`] | broken name servers cost nothing while one is left |
//! | [`sendmail`] | programs that call sendmail reach the daemon |
//! | [`connections`] | which connections mail goes over: whose, from where, judged when, how many |
//! | [`server`] | what a client may say to us |
//! | [`clients`] | programs that speak SMTP in their own way are served, or told why not |
//! | [`doors`] | how clients come in, and what they are shown |
//! | [`hostile`] | who means harm, or is broken, stops nobody else |
//! | [`access`] | who may send how much to whom |
//! | [`submission`] | who may log in, and what they may send then |
//! | [`crash`] | a 250 survives `kill -9` |
//! | [`odd_hosts`] | hosts that speak SMTP in their own way get mail, or what is wrong is said |
//! | [`queue`] | one message's, host's or route's trouble is not another's |
//! | [`lint`] | who publishes a policy is told what is wrong with it, and what it leaves out |
//! | [`explained`] | what decides about a message is said beforehand |
//! | [`life`] | a changed configuration, a pause and a stop lose nothing |
//! | [`bounce`] | a failed recipient's sender hears of it once |
//! | [`mistakes`] | a mistake in the configuration is named with its place and its cure |
//! | [`notices`] | whose mail waits is told once, and sooner if something has to be mended |
//! | [`story`] | `grep MESSAGE_ID` tells what became of a message |
//! | [`transfer`] | mail moves to another machine, and into a backup and back, once |
//! | [`rows`] | the requirements of the RFCs, row by row |
//! | [`tidy`] | the documents say what the code is |
//! | [`commands`] | what the documents show can be typed |
//! | [`house`] | the program is built as drawn: who knows whom |

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a panic is how a test fails, also in its helpers"
)]

mod access;
mod bounce;
mod cache;
mod clients;
mod commands;
mod connections;
mod crash;
mod damaged;
mod doors;
mod downgrade;
mod explained;
mod fairness;
mod harness;
mod home;
mod hostile;
mod house;
mod http;
mod life;
mod lint;
mod lost;
mod matrix;
mod meanwhile;
mod mistakes;
mod names;
mod notices;
mod odd_hosts;
mod queue;
mod resolvers;
mod rows;
mod sendmail;
mod server;
mod story;
mod submission;
mod tidy;
mod transfer;

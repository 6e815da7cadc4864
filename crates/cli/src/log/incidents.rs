//! What an audit says of misconduct: who has signed twice for one place, and what was refused.

use std::io::{self, Write};

use roundtable::{
    AuthorId,
    kept::{Claims, Culprit, Equivocation, FrameError, Refusals},
};
use serde_json::{Value, json};

use super::{Kept, audit::event, short, time::utc};

/// The forks that the log still has, and those that were noted when it had them.
pub(super) fn equivocations(kept: &Kept, json: bool, out: &mut impl Write) -> io::Result<()> {
    let mut all = kept.contents.equivocations();
    for fork in kept.verified.log.forks() {
        all.note(&fork);
    }
    all.iter().try_for_each(|one| equivocation(one, json, out))
}

fn equivocation(one: &Equivocation, json: bool, out: &mut impl Write) -> io::Result<()> {
    let (author, after) = (one.author(), one.after());
    let [left, right] = one.frames().map(|(id, _)| id.to_string());
    if json {
        let signed = one.frames().map(|(_, header)| header.wall_ms);
        let fields = json!({ "author": author.to_string(), "after_nonce": after,
            "frames": [left, right], "signed_unix_ms": signed });
        return event(out, "equivocation", fields);
    }
    let author = short(author);
    writeln!(
        out,
        "equivocation: {author} signed two frames after #{after}: {left} and {right}"
    )
}

/// What came from peers and was refused: in numbers, then the last ones.
pub(super) fn refusals(all: &Refusals, json: bool, out: &mut impl Write) -> io::Result<()> {
    for (culprit, code, tally) in all.tallies() {
        let (count, first, last) = (tally.count, tally.first, tally.last);
        if json {
            let mut fields = blame(culprit, code);
            fields["count"] = count.into();
            fields["first_unix_ms"] = first.as_millis().into();
            fields["last_unix_ms"] = last.as_millis().into();
            event(out, "refused", fields)?;
        } else {
            let (culprit, code) = (named(culprit), reason(code));
            let (first, last) = (utc(first), utc(last));
            writeln!(
                out,
                "refused: {count} frames {culprit}: {code}, {first} to {last}"
            )?;
        }
    }
    if all.rest() > 0 && json {
        event(out, "refused", json!({ "count": all.rest() }))?;
    } else if all.rest() > 0 {
        writeln!(out, "refused: {} frames of or from others", all.rest())?;
    }
    for refusal in all.last() {
        if json {
            let mut fields = blame(refusal.culprit, refusal.code);
            fields["unix_ms"] = refusal.at.as_millis().into();
            fields["claims"] = refusal.claims.as_ref().map_or(Value::Null, claims);
            event(out, "refused_frame", fields)?;
        } else {
            let (at, code) = (utc(refusal.at), reason(refusal.code));
            let culprit = named(refusal.culprit);
            let claims = refusal.claims.map(|claims| {
                let (author, nonce) = (short(claims.author), claims.first_nonce);
                format!(", it says {author} #{nonce}")
            });
            let claims = claims.unwrap_or_default();
            writeln!(out, "{at}  refused, {culprit}: {code}{claims}")?;
        }
    }
    Ok(())
}

/// Who is at fault for what; each is a key.
fn blame(culprit: Culprit, code: u8) -> Value {
    let (who, key): (_, AuthorId) = match culprit {
        Culprit::Author(author) => ("author", author),
        Culprit::Sender(sender) => ("sender", sender),
    };
    json!({ who: key.to_string(), "code": code, "reason": FrameError::name_of(code) })
}

fn named(culprit: Culprit) -> String {
    match culprit {
        Culprit::Author(author) => format!("signed by {}", short(author)),
        Culprit::Sender(sender) => format!("sent by {}", short(sender)),
    }
}

fn reason(code: u8) -> String {
    let name = FrameError::name_of(code).unwrap_or("unknown");
    format!("{name} (code {code})")
}

fn claims(claims: &Claims) -> Value {
    json!({ "author": claims.author.to_string(), "nonce": claims.first_nonce, "commands": claims.count,
        "lamport": claims.lamport, "unix_ms": claims.wall_ms })
}

//! A message for a host that does not take it as it is.

use smtp::mime::{Conversion, ConversionPlan, ConversionRefused, Goal, HeaderGoal, Survey};

use crate::{choice, piece_size};

fn plan(message: &[u8], goal: Goal, piece: usize) -> Result<ConversionPlan, ConversionRefused> {
    let mut survey = Survey::new(goal);
    message.chunks(piece).try_for_each(|piece| survey.push(piece))?;
    survey.finish()
}

fn convert(
    message: &[u8],
    goal: Goal,
    piece: usize,
) -> Result<(ConversionPlan, Vec<u8>), ConversionRefused> {
    let plan = plan(message, goal, piece)?;
    let mut out = Vec::new();
    let mut conversion = Conversion::new(&plan);
    message.chunks(piece).try_for_each(|piece| conversion.push(piece, &mut out))?;
    conversion.finish(&mut out)?;
    Ok((plan, out))
}

/// Cut as it may be, the result is the same; it is what the host takes, and needs nothing more.
pub fn check(mut data: &[u8]) {
    let number = choice(&mut data);
    let (seven_bit, short_lines) = match number % 3 {
        0 => (true, false),
        1 => (false, true),
        _ => (true, true),
    };
    let header = if number % 2 == 0 { HeaderGoal::AsItIs } else { HeaderGoal::Ascii };
    let goal = Goal { seven_bit, short_lines, header };
    let piece = piece_size(&mut data);
    let message = lines(data);
    let whole = convert(&message, goal, usize::MAX);
    let cut = convert(&message, goal, piece);
    let output = |result: &Result<(ConversionPlan, Vec<u8>), ConversionRefused>| {
        result.as_ref().map(|(_, out)| out.clone()).map_err(|refused| *refused)
    };
    assert_eq!(output(&whole), output(&cut));
    let Ok((plan, out)) = whole else { return };
    assert_eq!(plan.is_empty(), out == message, "nothing to do is nothing done");
    let may_have_8bit = !goal.seven_bit || plan.has_8bit_header() || plan.leaves_8bit();
    assert!(may_have_8bit || out.is_ascii());
    let again = convert(&out, goal, usize::MAX).expect("what was converted can be");
    assert!(again.0.is_empty(), "and has nothing left to convert");
}

/// Whole lines, as the server keeps them.
fn lines(data: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for line in data.split_inclusive(|octet| *octet == b'\n') {
        message.extend(line.iter().filter(|octet| !b"\r\n\0".contains(octet)));
        message.extend_from_slice(b"\r\n");
    }
    message
}

//! A sentence for each step: what has just happened, and why.

use super::camera::{Film, Shot};
use super::processor::{self, REGISTERS};
use super::recording::{Flow, Line, Word};
use super::words::Roles;

/// What happened in the step from `former` to `shot`.
pub fn what(film: &Film, roles: &Roles, former: Option<&Shot>, shot: &Shot) -> String {
    let place = film.space.place(shot.registers.pc());
    let Some(former) = former else { return format!("The film begins at {place}.") };
    let Some(line) = line_of(film, former) else { return String::new() };
    let written = written(&line, former, shot);
    if let Some(skipped) = &shot.skipped {
        return match skipped.instructions {
            Some(count) => format!("{count} instructions later. They are left out. Now at {place}."),
            None => format!("The thread ran at full speed to {place}; that part is not shown."),
        };
    }
    let text = line.text.split("  #").next().unwrap_or_default();
    match line.flow {
        Flow::Call => {
            let pushed =
                written.first().map(|(at, word)| format!("put the return address {word:#x} on the stack at {at:#x}"));
            let pushed = pushed.unwrap_or_else(|| {
                let kept = processor::LINK_REGISTER.and_then(|at| shot.registers.all().get(at).copied());
                let name = processor::LINK_REGISTER.map_or("", |at| REGISTERS[at]);
                kept.map_or_else(String::new, |kept| format!("put the return address {kept} into {name}"))
            });
            format!("`{text}` {pushed} and went on at {place}.")
        }
        Flow::Return => match processor::LINK_REGISTER {
            Some(register) => {
                let pc = shot.registers.pc();
                format!("`{text}` went on at the address in {}, {pc:#x}: {place}.", REGISTERS[register])
            }
            None => format!(
                "`{text}` took {:#x} from the stack at {:#x} and went on there: {place}.",
                shot.registers.pc(),
                former.registers.sp()
            ),
        },
        Flow::Jump => format!("`{text}`: execution goes on at {place}."),
        Flow::On => moved(film, roles, text, former, shot, &written),
    }
}

/// Why it happened.
pub fn why(film: &Film, roles: &Roles, former: Option<&Shot>, shot: &Shot, next: Option<&Shot>) -> String {
    let Some(former) = former else { return why_it_begins(roles, film, shot) };
    let Some(line) = line_of(film, former) else { return String::new() };
    match &shot.skipped {
        Some(skipped) => why_after_skip(film, roles, shot, next, skipped.instructions.is_some()),
        None => why_one(film, roles, &line, former, shot, &written(&line, former, shot)),
    }
}

pub fn line_of(film: &Film, shot: &Shot) -> Option<Line> {
    let listing = film.listings.get(shot.listing?);
    listing.lines.iter().find(|line| line.at == Word(shot.registers.pc())).cloned()
}

/// The words at or above the stack pointer that differ.
pub fn written(line: &Line, former: &Shot, shot: &Shot) -> Vec<(u64, u64)> {
    // aarch64's stores that make the room that they store to: `stp x29, x30, [sp, #-160]!`.
    let makes_room = line.text.contains("]!");
    let size = if line.text.starts_with("stp") { 16 } else { 8 };
    let is_stored = |at: u64| makes_room && at < shot.registers.sp() + size;
    let mut written = Vec::new();
    for (start, words) in &shot.parts {
        for (number, word) in words.iter().enumerate() {
            let at = start + 8 * number as u64;
            let is_near = !makes_room && former.registers.sp().saturating_sub(shot.registers.sp()) <= 16;
            let is_new = at < former.registers.sp() && (is_near || is_stored(at));
            // A larger room is only made, and not filled.
            let is_room = at < former.registers.sp() && !is_new;
            if at >= shot.registers.sp()
                && !is_room
                && former.word(at).map_or(is_stored(at), |was| was != *word || is_new)
            {
                written.push((at, *word));
            }
        }
    }
    written
}

/// What a store has put into the word below the stack pointer, as Go's functions do on aarch64.
fn written_below(text: &str, shot: &Shot) -> Option<(u64, u64)> {
    let at = shot.registers.sp() - 8;
    let is_store = text.starts_with("stur x") && text.ends_with(", [sp, #-8]");
    is_store.then(|| shot.word(at).map(|word| (at, word)))?
}

/// Registers that differ, but for the program counter and flags: number, and the value.
pub fn registers(former: &Shot, shot: &Shot) -> Vec<(usize, u64)> {
    let pairs = former.registers.all().into_iter().zip(shot.registers.all());
    let changed = pairs.enumerate().filter(|(_, (was, is))| was != is);
    changed
        .map(|(number, (_, is))| (number, is.0))
        .filter(|(number, _)| !matches!(REGISTERS[*number], "rip" | "pc" | "eflags" | "pstate"))
        .collect()
}

fn moved(film: &Film, roles: &Roles, text: &str, former: &Shot, shot: &Shot, written: &[(u64, u64)]) -> String {
    let (was, is) = (former.registers.sp(), shot.registers.sp());
    let one = |(at, word): (u64, u64)| {
        let (_, note) = roles.note(film, shot, at, word);
        format!("{word:#x} ({note})")
    };
    let changed: Vec<_> =
        registers(former, shot).into_iter().filter(|(number, _)| !matches!(REGISTERS[*number], "rsp" | "sp")).collect();
    if let Some((at, word)) = written_below(text, shot) {
        return format!("`{text}` stored {} below the stack pointer, at {at:#x}.", one((at, word)));
    }
    let makes_room = is < was && text.starts_with("sub");
    if let (Some(&(at, word)), false) = (written.last(), makes_room) {
        let place = match film.goroutine {
            Some(_) if at == roles.foot && word != roles.before => "the word that was the foot".to_owned(),
            _ if at == roles.foot => "the foot".to_owned(),
            _ => format!("the stack at {at:#x}"),
        };
        let room = if was.saturating_sub(is) > 16 {
            format!("moved the stack pointer {} bytes inwards, to {is:#x}, and ", was - is)
        } else {
            String::new()
        };
        if let (true, [.., former, _]) = (text.starts_with("stp x"), written) {
            let stored = one(*former);
            return format!("`{text}` {room}stored {stored} at {:#x}, and {} in {place}.", former.0, one((at, word)));
        }
        return format!("`{text}` {room}stored {} in {place}.", one((at, word)));
    }
    if is < was {
        return format!(
            "`{text}` moved the stack pointer {} bytes inwards, to {is:#x}: room for {}.",
            was - is,
            match (was - is) / 8 {
                1 => "one word".to_owned(),
                count => format!("{count} words"),
            }
        );
    }
    if let Some(&(number, value)) = changed.first() {
        let freed =
            if is > was { format!(" and moved the stack pointer {} bytes outwards", is - was) } else { String::new() };
        let (_, note) = roles.note(film, shot, 0, value);
        return format!("`{text}` changed {} to {value:#x} ({note}){freed}.", REGISTERS[number]);
    }
    if is > was {
        return format!("`{text}` moved the stack pointer {} bytes outwards, to {is:#x}.", is - was);
    }
    format!("`{text}` changed none of the registers and words that are shown.")
}

fn why_it_begins(roles: &Roles, film: &Film, shot: &Shot) -> String {
    let place = film.space.name(shot.registers.pc());
    match line_of(film, shot).map(|line| line.flow) {
        Some(Flow::Call) => {
            let puts = match processor::LINK_REGISTER {
                Some(register) => {
                    format!(
                        "its call puts the return address into {}. The entry function will store it in",
                        REGISTERS[register]
                    )
                }
                None => "its call will put the return address into".to_owned(),
            };
            format!(
                "The next instruction is the call of the entry function. The function {place} has started this stack, \
                 and {puts} the word at {:#x}: the foot.",
                roles.foot
            )
        }
        _ => format!("The foot of this stack is the word at {:#x}.", roles.foot),
    }
}

fn why_after_skip(film: &Film, roles: &Roles, shot: &Shot, next: Option<&Shot>, counted: bool) -> String {
    let pc = shot.registers.pc();
    let leaves = next.is_some_and(|next| next.skipped.is_none() && next.registers.sp() > roles.foot)
        && shot.registers.sp() <= roles.foot;
    let flow = line_of(film, shot).map(|line| line.flow);
    if pc == film.facts.handler {
        return "This is the exit handler, which exeunt::at_exit has registered. The drain took it from the stack's \
                record and called it. The entry function is gone, but the backtrace still leads through \
                exeunt's code to the exit trampoline and further out."
            .to_owned();
    }
    if let Some(site) = film.facts.sites.iter().find(|site| site.address == pc) {
        return format!(
            "This is the call that exeunt has patched, in {}. It called another function of libc; now it leads to a hook \
             of exeunt's.",
            site.trampoline
        );
    }
    if leaves && link_register(shot) == Some(roles.after) {
        return "The foot's word is in the link register, x30, by now: the entry function will return there. The next \
                instruction frees the frame that the foot is in."
            .to_owned();
    }
    if leaves && flow == Some(Flow::Return) {
        return "The next instruction is the return of the entry function. It takes its word from the foot.".to_owned();
    }
    let text = line_of(film, shot).map_or(String::new(), |line| line.text);
    if leaves && text.contains("x30") && text.contains("[sp") {
        return "The next instruction loads the return address of the entry function from the foot, and frees the frame \
                that the foot is in."
            .to_owned();
    }
    if leaves {
        return "glibc has unwound the stack: it ran the cleanups of each frame. The next instruction puts the landing's \
                stack pointer into the register, which is the base."
            .to_owned();
    }
    if !counted
        && film
            .shots
            .iter()
            .take_while(|other| !std::ptr::eq(*other, shot))
            .all(|other| other.registers.pc() != film.facts.handler)
    {
        return patched(film, shot);
    }
    if !counted {
        return "The drain is over: the handlers have run and the values are dropped.".to_owned();
    }
    if shot.word(roles.foot) == Some(roles.after) && roles.after != roles.before {
        return "The stack is armed. Nothing else has changed for the code that runs on it.".to_owned();
    }
    let functions = shot.skipped.as_ref().map_or(&[][..], |skipped| &skipped.functions);
    let skipped = functions.iter().find(|(name, _)| name.starts_with("exeunt::")).or(functions.first());
    match skipped {
        Some((function, count)) => format!(
            "Of these, {count} were in {function}. The next instruction writes a word of the stack from the foot on."
        ),
        None => String::new(),
    }
}

fn patched(film: &Film, shot: &Shot) -> String {
    let changed = change(film, shot).unwrap_or_default();
    format!("The stack is armed, and the foot is as it was. {changed}").trim_end().to_owned()
}

/// What code redirect has changed, from the code before and after.
pub fn change(film: &Film, shot: &Shot) -> Option<String> {
    let instruction = |shot: &Shot| {
        let (listing, at) = shot.other?;
        let line = film.listings.get(listing).lines.iter().find(|line| line.at == Word(at))?;
        Some((at, line.text.clone(), line.bytes.clone()))
    };
    let (at, was, bytes_before) = film.shots.iter().find_map(instruction)?;
    let (_, is, bytes_after) = instruction(shot)?;
    Some(format!(
        "exeunt has patched one instruction, at {at:#x}: `{was}` ({bytes_before}) became `{is}` ({bytes_after})."
    ))
}

fn why_one(film: &Film, roles: &Roles, line: &Line, former: &Shot, shot: &Shot, written: &[(u64, u64)]) -> String {
    let original = processor::plain(roles.before);
    let is_original = |word: u64| film.facts.trampolines.iter().any(|(_, at, _)| *at == processor::plain(word));
    let pc = shot.registers.pc();
    let after = processor::plain(roles.after);
    if let Some(why) = by_link_register(film, roles, line, former, shot, written) {
        return why;
    }
    for &(at, word) in written {
        let was = former.word(at);
        if at == roles.foot && was == Some(roles.before) && word == roles.after {
            return "This store is the redirect. From now on the entry function's return leads to exeunt's trampoline. \
                    Look at the backtrace: it has one frame more, and the frames outside of it are the same."
                .to_owned();
        }
        if Some(at) == roles.spare && word == original {
            return "This word of the exit trampoline's frame is padding that glibc does not use. It keeps the original \
                    return address, for unwinders: as soon as the foot leads to the trampoline, they find the \
                    exit trampoline by it. So it is written before the foot."
                .to_owned();
        }
        if Some(at) == roles.landing {
            return "The landing is where pthread_exit and cancellation jump to after they have unwound the stack. \
                    They do not return through the foot, so exeunt redirects this jump as well. glibc mangles the \
                    address: it is rotated, and mixed with a secret of the process."
                .to_owned();
        }
    }
    if line.flow == Flow::Call && film.facts.sites.iter().any(|site| site.address == former.registers.pc()) {
        return if enters(film, former, shot) {
            "The call leads to exeunt's hook.".to_owned()
        } else {
            "A call reaches only some distance, so it leads to a stub near by, which jumps to the hook. The stub has no \
             unwind table: for this one instruction an unwinder that knows only tables finds no caller."
                .to_owned()
        };
    }
    if line.flow == Flow::Call && written.iter().any(|(at, word)| *at == roles.foot && *word == roles.before) {
        return "This is the first frame of the user's code. The word that the call has written is the foot of the stack: \
                the function will return to this address, unless somebody changes it."
            .to_owned();
    }
    let in_trampoline = [former, shot].map(|shot| film.space.function(shot.registers.pc()).map(|(name, _)| name));
    let name = in_trampoline[0].as_deref().unwrap_or_default();
    if shot.registers.sp() > roles.foot
        && former.registers.sp() < roles.foot
        && line.flow == Flow::On
        && !name.starts_with("exeunt_")
    {
        return "glibc restores the registers that the landing has kept. All frames of this stack are gone now."
            .to_owned();
    }
    if line.flow == Flow::Jump && former.registers.sp() > roles.foot && pc != after && enters(film, former, shot) {
        return "The stack is unwound, and this jump goes to the landing. The jmp_buf's program counter is the one that \
                exeunt has put there, so the thread is in a trampoline, with the stack pointer at the base."
            .to_owned();
    }
    if line.flow == Flow::Return && pc == after && roles.after != roles.before {
        return "The function has no part in this. Its ret takes the foot's word as ever, and that word leads to \
                exeunt's trampoline. The stack pointer is at the base now: this stack's own frames are all gone."
            .to_owned();
    }
    let landing = film.facts.trampolines.iter().find(|(_, at, unwound)| *unwound && *at == pc);
    if let (Flow::Return, Some((name, ..))) = (line.flow, landing) {
        return format!("This is the landing: where pthread_exit would have jumped to without exeunt, in {name}.");
    }
    if line.flow == Flow::Return && pc == original {
        let result = film.facts.result.filter(|result| *result == shot.registers.result());
        let result = result
            .map_or(String::new(), |result| format!(" The result is as the entry function left it: {result:#x}."));
        if roles.after == roles.before {
            return format!("The return is not redirected: code redirect leaves the foot as it is.{result}");
        }
        return format!(
            "This is where the entry function would have returned to without exeunt. Registers and stack are as the \
             exit trampoline expects them.{result}"
        );
    }
    if !name.starts_with("exeunt_") {
        return String::new();
    }
    if written.iter().any(|(at, word)| *at == roles.foot && is_original(*word)) {
        return if former.registers.sp() > roles.foot {
            "The return had taken the foot from the stack. This puts a word in its place again, with the original \
             address. Now the stack looks as if the exit trampoline had called the trampoline."
                .to_owned()
        } else {
            "The foot has held the drain's mark. Now it holds the original return address again.".to_owned()
        };
    }
    if written.iter().any(|(_, word)| is_original(*word)) {
        return "While the drain runs, the foot holds a mark by which exeunt recognises that this stack is draining. \
                So the original return address is kept here meanwhile, and the unwind table's next row says so."
            .to_owned();
    }
    if let Some(result) = film.facts.result
        && written.iter().any(|(_, word)| *word == result)
    {
        return "This is the entry function's result. Handlers may use the register, so the trampoline keeps the result \
                on the stack."
            .to_owned();
    }
    if let Some(result) = film.facts.result
        && former.registers.result() != result
        && shot.registers.result() == result
    {
        return "The entry function's result is back in its register.".to_owned();
    }
    if line.flow == Flow::Call {
        return "The drain runs the handlers of this stack, last in first out, and drops its values. The film does not \
                step through it: it stops at the handler, and at the drain's return."
            .to_owned();
    }
    if line.text.contains("endbr64") || line.text.contains("bti") {
        return "A landing pad: processors that check targets of indirect branches allow no other instruction here. \
                Others do nothing."
            .to_owned();
    }
    if pc != former.registers.pc() && line.flow == Flow::Jump {
        let common = if name.contains("hook") { "hooks" } else { "trampolines" };
        if enters(film, shot, former) {
            let place = processor::LINK_REGISTER.map_or("The word at the stack pointer".to_owned(), |register| {
                format!("The word in {}", REGISTERS[register])
            });
            return format!(
                "The hook is done. {place} is the address behind the patched call, as if the call had led here by itself."
            );
        }
        return format!("All {common} share this common part.");
    }
    let handled = film
        .shots
        .iter()
        .take_while(|other| !std::ptr::eq(*other, shot))
        .any(|other| other.registers.pc() == film.facts.handler);
    let changed = registers(former, shot);
    if let [(_, value)] = changed[..]
        && !handled
    {
        if value == roles.foot {
            return "This is an argument of the drain: where the foot is.".to_owned();
        }
        if value == roles.foot + 8 {
            return "This is an argument of the drain: the base of the stack.".to_owned();
        }
        if is_original(value) {
            return "The original return address is moved: the next instruction stores it.".to_owned();
        }
    }
    if line.text.starts_with("cld") {
        return "The ABI requires that the direction flag is clear at a call.".to_owned();
    }
    if let ([(at, _)], true) = (written, shot.registers.sp() + 8 == former.registers.sp())
        && *at == shot.registers.sp()
    {
        return "This is the address of the function that the patched call led to before. The hook jumps there at its end."
            .to_owned();
    }
    if shot.registers.sp() < former.registers.sp() {
        return "It makes room for registers, and for the original address.".to_owned();
    }
    if shot.registers.sp() > former.registers.sp()
        && shot.registers.sp() == roles.foot
        && shot.word(roles.foot).is_some_and(is_original)
    {
        return "The stack pointer is at the foot, which holds the original return address.".to_owned();
    }
    // aarch64's mov is between registers.
    let is_mov = processor::LINK_REGISTER.is_none() && line.text.contains("mov");
    let has = |others: [&str; 2]| is_mov || others.iter().any(|other| line.text.starts_with(other));
    if !handled && has(["stp", "str"]) {
        return "The drain may change this register, and a result or an argument can be in it. So it is kept."
            .to_owned();
    }
    if handled && has(["ldp", "ldr"]) {
        return "What was kept before the drain is put back.".to_owned();
    }
    String::new()
}

fn link_register(shot: &Shot) -> Option<u64> {
    Some(shot.registers.all().get(processor::LINK_REGISTER?)?.0)
}

/// Why, where calls keep the return address in a register: it is stored, signed, loaded and checked.
fn by_link_register(
    film: &Film,
    roles: &Roles,
    line: &Line,
    former: &Shot,
    shot: &Shot,
    written: &[(u64, u64)],
) -> Option<String> {
    let (was, is) = (link_register(former)?, link_register(shot)?);
    let is_redirected = roles.after != roles.before;
    let leads = processor::plain(is);
    let is_original = |word: u64| film.facts.trampolines.iter().any(|(_, at, _)| *at == processor::plain(word));
    let why = if line.flow == Flow::Call && is == processor::plain(roles.before) {
        "This is the first frame of the user's code. Its return address is in x30, and in no word of the stack so far."
    } else if written.contains(&(roles.foot, roles.before)) && link_register(former) == Some(roles.before) {
        "The call has put the return address into x30, the link register, and the function stores it on the stack, \
         since its own calls use that register. This word is the foot of the stack: the function will return to this \
         address, unless somebody changes it."
    } else if line.text.starts_with("paciasp") {
        "This signs the return address in x30. The bits above the address are now a code, computed from the address, \
         the stack pointer and a key of the process. Without the key, code that changes the stored word \
         cannot compute a new one."
    } else if line.text.starts_with("autiasp") && leads == processor::plain(roles.after) && is_redirected {
        "This checks the signature, and takes it out. The foot's word passes, though exeunt has changed it: exeunt runs \
         in this process, and has signed the trampoline's address with the same key and for the same stack pointer."
    } else if line.text.starts_with("autiasp") {
        "This checks the signature of the return address, and takes it out. A wrong one would stop the process, here or \
         at the return."
    } else if is == roles.after && was != is && is_redirected {
        "The function loads its return address from the foot, as ever. So x30 leads to exeunt's trampoline, and the next \
         return goes there."
    } else if is == roles.after && is_redirected && crosses(roles, former, shot) {
        "The frame that the foot is in is free now. The word itself is in x30, and the return goes there."
    } else if was != is && is_original(is) && !is_redirected && crosses(roles, former, shot) {
        "The function loads its return address from the foot, which is as it was."
    } else if was != is && is_original(is) && line.flow == Flow::On && crosses(roles, former, shot) {
        "The common part takes the original address back from the stack, and frees its frame."
    } else if was != is && is_original(is) && is == leads && line.flow == Flow::On {
        "x30 now has the original address, which this trampoline stands for. A call from the exit trampoline would leave \
         the same there, so the common part is like a function that the exit trampoline has called."
    } else if is_original(is) && line.text.contains("x30") && written.iter().any(|(_, word)| *word == is) {
        "The original address is kept in a frame again, for the time of the drain. The word that was the foot gets a \
         mark, by which exeunt recognises that this stack is draining."
    } else if registers(former, shot).iter().any(|(_, value)| is_original(*value)) && line.flow == Flow::On {
        "This is the original address. It comes from the trampoline's cell, a word of memory that each trampoline has."
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// Whether the stack pointer has passed the foot.
fn crosses(roles: &Roles, former: &Shot, shot: &Shot) -> bool {
    former.registers.sp() <= roles.foot && shot.registers.sp() > roles.foot
}

/// Whether this step leads from other code to code of exeunt's.
fn enters(film: &Film, former: &Shot, shot: &Shot) -> bool {
    let is_ours =
        |shot: &Shot| film.space.function(shot.registers.pc()).is_some_and(|(name, _)| name.starts_with("exeunt_"));
    is_ours(shot) && !is_ours(former)
}

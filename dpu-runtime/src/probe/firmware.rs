//! What the vendor's firmware tool says of a card: the text of `mstconfig -d <address> q` (or `mlxconfig`).
//!
//! ```text
//! setting                            DPU mode            NIC mode         separated host
//! INTERNAL_CPU_MODEL                 EMBEDDED_CPU(1)     EMBEDDED_CPU(1)  SEPARATED_HOST(0)
//! INTERNAL_CPU_OFFLOAD_ENGINE        ENABLED(0)          DISABLED(1)
//! INTERNAL_CPU_PAGE_SUPPLIER         ECPF(0)             EXT_HOST_PF(1)
//! INTERNAL_CPU_ESWITCH_MANAGER       ECPF(0)             EXT_HOST_PF(1)
//! INTERNAL_CPU_IB_VPORT0             ECPF(0)             EXT_HOST_PF(1)
//! ```
//!
//! The numbers decide, not the words before them. A query shows one column, or three of them: default, current and
//! next boot; the current one is what counts, and it is the middle one.

use super::Mode;

/// The mode in the tool's answer; `None` if it does not say.
pub(super) fn mode(answer: &str) -> Option<Mode> {
    let model = setting(answer, "INTERNAL_CPU_MODEL")?;
    if model == 0 {
        return Some(Mode::SeparatedHost);
    }
    match setting(answer, "INTERNAL_CPU_OFFLOAD_ENGINE")? {
        0 => Some(Mode::Dpu),
        1 => Some(Mode::Nic),
        _ => None,
    }
}

/// The number that stands for a setting's current value.
fn setting(answer: &str, name: &str) -> Option<u8> {
    let line = answer.lines().take(LINES_MAX).find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "*");
        (words.next() == Some(name)).then_some(words)
    });
    let values: Vec<&str> = line?.take(4).collect();
    let current = if values.len() == 3 { values.get(1) } else { values.first() }?;
    let number = match current.split_once('(') {
        Some((_, number)) => number.strip_suffix(')')?,
        None => current,
    };
    number.parse().ok()
}

/// The tool knows some hundreds of settings.
const LINES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_one_column_or_the_middle_of_three() {
        let one = "Configurations:   Next Boot\n  INTERNAL_CPU_MODEL   EMBEDDED_CPU(1)\n \
                   INTERNAL_CPU_OFFLOAD_ENGINE  ENABLED(0)\n";
        assert_eq!(mode(one), Some(Mode::Dpu));
        let three = "*   INTERNAL_CPU_MODEL  EMBEDDED_CPU(1) EMBEDDED_CPU(1) EMBEDDED_CPU(1)\n\
                     *   INTERNAL_CPU_OFFLOAD_ENGINE  ENABLED(0) DISABLED(1) ENABLED(0)\n";
        assert_eq!(mode(three), Some(Mode::Nic), "what is to come is not what is");
        assert_eq!(mode("INTERNAL_CPU_MODEL SEPARATED_HOST(0)"), Some(Mode::SeparatedHost));
        assert_eq!(mode("INTERNAL_CPU_MODEL 0"), Some(Mode::SeparatedHost));
    }

    #[test]
    fn says_nothing_where_the_answer_does_not() {
        for answer in ["", "-E- No such device", "INTERNAL_CPU_MODEL", "INTERNAL_CPU_MODEL EMBEDDED_CPU(1)"] {
            assert_eq!(mode(answer), None, "{answer}");
        }
        assert_eq!(mode("INTERNAL_CPU_MODEL X(1)\nINTERNAL_CPU_OFFLOAD_ENGINE Y(7)"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(
            answer in "(\\PC|\n|INTERNAL_CPU_MODEL |INTERNAL_CPU_OFFLOAD_ENGINE |A\\(1\\)|\\(|\\)){0,60}"
        ) {
            mode(&answer);
        }
    }
}

//! G.711 mu-law (ITU-T G.711, table 2a): 14-bit samples, here carried in the upper bits of 16-bit
//! ones.

/// Added before the segment is sought, so that segment 0 starts at a power of two.
const BIAS: i32 = 0x84;

/// Largest magnitude that can be coded.
const CLIP: i32 = 32_635;

/// Value of each code, computed at compile time.
static VALUES: [i16; 256] = values();

const fn values() -> [i16; 256] {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        let bits = !(code as u8);
        let segment = (bits >> 4) & 0x07;
        let magnitude = ((((bits & 0x0f) as i32) << 3) + BIAS) << segment;
        let magnitude = magnitude - BIAS;
        table[code] = if bits & 0x80 == 0 {
            magnitude
        } else {
            -magnitude
        } as i16;
        code += 1;
    }
    table
}

/// Codes a linear sample.
pub fn encode(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0x00 };
    let magnitude = i32::from(sample).abs().min(CLIP) + BIAS;
    // BIAS sets bit 7 at least and CLIP keeps bit 15 clear, so the segment is 0 to 7.
    let segment = (magnitude.ilog2() - 7) as u8;
    let mantissa = ((magnitude >> (segment + 3)) & 0x0f) as u8;
    !(sign | (segment << 4) | mantissa)
}

/// The linear sample a code stands for.
pub fn decode(code: u8) -> i16 {
    VALUES[usize::from(code)]
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn known_codes() {
        for (sample, code) in [
            (0, 0xff),
            (-1, 0x7f),
            (i16::MAX, 0x80),
            (i16::MIN, 0x00),
            (8, 0xfe),
        ] {
            assert_eq!(encode(sample), code, "sample {sample}");
        }
        for (code, sample) in [
            (0xff, 0),
            (0x7f, 0),
            (0x80, 32_124),
            (0x00, -32_124),
            (0xfe, 8),
        ] {
            assert_eq!(decode(code), sample, "code {code:#04x}");
        }
    }

    #[test]
    fn every_code_survives_a_round_trip() {
        for code in 0..=255 {
            // 0x7f is negative zero: it decodes to the same sample as 0xff.
            let expected = if code == 0x7f { 0xff } else { code };
            assert_eq!(encode(decode(code)), expected);
        }
    }

    #[test]
    fn error_stays_within_half_a_step_of_the_segment() {
        for sample in (-32_635..=32_635).step_by(7) {
            let error = (i32::from(decode(encode(sample))) - i32::from(sample)).abs();
            let allowed = 4.max((i32::from(sample).abs() + 0x84) >> 5);
            assert!(error <= allowed, "sample {sample}: error {error}");
        }
    }
}

//! Just enough DER and BER.

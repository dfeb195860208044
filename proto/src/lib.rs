//! Wire format: protobuf definitions, generated code, checked conversions.

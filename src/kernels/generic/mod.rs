//! The float routines, written once over arrays of 16 lanes. Each instruction set compiles them again with
//! its own features, and the compiler turns the lanes into its registers.
//!
//! Every result has one fixed order of operations that depends on the lengths alone: neither on the number of
//! columns that are computed together nor on the thread that computes them.

mod attend;
mod attend_rows;
mod convert;
mod functions;
mod lanes;
mod rows;

pub(super) use attend::attend;
pub(super) use attend_rows::attend_rows;
pub(super) use convert::{f32_to_f16, f32_to_q8, max_magnitude, quantize};
pub(super) use functions::{gelu, gelu_tanh, layer_norm, rms_norm};
pub(super) use lanes::{Bf16, F16, Simd};
pub(super) use rows::rows;

/// The table of an instruction set's float kernels, compiled with its features.
macro_rules! float_kernels {
    ($($features:literal)?; $simd:ty) => {
        use crate::kernels::generic;
        use crate::kernels::operands::{Attention, ColumnWriter, RowAttention};
        use crate::kernels::table::FloatKernels;

        pub(super) const FLOAT: FloatKernels = FloatKernels {
            rows_f32, rows_f16, rows_bf16, quantize, layer_norm, rms_norm, gelu, gelu_tanh, f32_to_f16, f32_to_q8,
            attend_f32, attend_f16, attend_q8, attend_rows,
        };

        $(#[target_feature(enable = $features)])?
        unsafe fn rows_f32(rows: &[f32], width: usize, input: &[f32], output: &mut [[f32; 16]]) {
            generic::rows::<$simd, f32>(rows, width, input, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn rows_f16(rows: &[u16], width: usize, input: &[f32], output: &mut [[f32; 16]]) {
            generic::rows::<$simd, generic::F16>(bytemuck::cast_slice(rows), width, input, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn rows_bf16(rows: &[u16], width: usize, input: &[f32], output: &mut [[f32; 16]]) {
            generic::rows::<$simd, generic::Bf16>(bytemuck::cast_slice(rows), width, input, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn quantize(input: &[f32], output: &mut ColumnWriter) {
            generic::quantize(input, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn layer_norm(input: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, output: &mut [f32]) {
            generic::layer_norm::<$simd>(input, weight, bias, epsilon, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn rms_norm(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
            generic::rms_norm(input, weight, epsilon, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn gelu(values: &mut [f32]) {
            generic::gelu::<$simd>(values)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn gelu_tanh(values: &mut [f32]) {
            generic::gelu_tanh::<$simd>(values)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn f32_to_f16(values: &[f32], bits: &mut [u16]) {
            generic::f32_to_f16::<$simd>(values, bits)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn f32_to_q8(values: &[f32], inverse: f32, output: &mut [i8]) {
            generic::f32_to_q8(values, inverse, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn attend_f32(attention: &Attention<'_, f32>, scores: &mut [f32], output: &mut [f32]) {
            generic::attend::<$simd, f32>(attention, scores, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn attend_f16(attention: &Attention<'_, u16>, scores: &mut [f32], output: &mut [f32]) {
            generic::attend::<$simd, u16>(attention, scores, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn attend_q8(attention: &Attention<'_, i8>, scores: &mut [f32], output: &mut [f32]) {
            generic::attend::<$simd, i8>(attention, scores, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn attend_rows(attention: &RowAttention<'_>, output: &mut [f32]) {
            generic::attend_rows::<$simd>(attention, output)
        }
    };
}
pub(super) use float_kernels;

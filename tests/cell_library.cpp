// lstm_cell.h and activations.h as a C library, for test_cell.py.
#include <cstdint>

#include "lstm_cell.h"

template <class T>
struct CellInputs {
  T i_pre, f_pre, g_pre, o_pre, m_g, c_prev, dh, dc;
};

template <class T>
void cell(const CellInputs<T>* in, T* forward, T* backward) {
  const auto [i_pre, f_pre, g_pre, o_pre, m_g, c_prev, dh, dc] = *in;
  const rnndrop::CellForward<T> f = rnndrop::cell_forward(i_pre, f_pre, g_pre, o_pre, m_g, c_prev);
  const rnndrop::CellBackward<T> b = rnndrop::cell_backward(f.i, f.f, f.g, f.o, m_g, c_prev, f.c, dh, dc);
  const T forward_values[] = {f.i, f.f, f.g, f.o, f.c, f.h};
  const T backward_values[] = {b.di_pre, b.df_pre, b.dg_pre, b.do_pre, b.dc_prev};
  for (int k = 0; k < 6; ++k) forward[k] = forward_values[k];
  for (int k = 0; k < 5; ++k) backward[k] = backward_values[k];
}

extern "C" {
void cell_float64(const CellInputs<double>* in, double* forward, double* backward) { cell(in, forward, backward); }
void cell_float32(const CellInputs<float>* in, float* forward, float* backward) { cell(in, forward, backward); }

void sigmoid_float64(const double* x, double* out, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = rnndrop::sigmoid(x[k]);
}
void sigmoid_float32(const float* x, float* out, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = rnndrop::sigmoid(x[k]);
}
void tanh_float64(const double* x, double* out, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = rnndrop::tanh(x[k]);
}
void tanh_float32(const float* x, float* out, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = rnndrop::tanh(x[k]);
}
}

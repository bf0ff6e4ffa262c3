// lstm_cell.h and activations.h as a C library, for test_cell.py.
#include <cstdint>

#include "lstm_cell.h"

template <class T>
struct CellInputs {
  T i_pre, f_pre, g_pre, o_pre, m_g, m_c, z_c, z_h, c_prev, h_prev, dh, dc;
};

// With the noise of the inputs, or with one of which nothing is set.
template <bool noisy_state, bool set_noise, class T>
void cell(const CellInputs<T>* in, T* forward, T* backward) {
  const auto [i_pre, f_pre, g_pre, o_pre, m_g, m_c, z_c, z_h, c_prev, h_prev, dh, dc] = *in;
  rnndrop::CellNoise<T> noise;
  if (set_noise) {
    noise.m_g = m_g;
    noise.m_c = m_c;
    noise.z_c = z_c;
    noise.z_h = z_h;
  }
  const rnndrop::CellForward<T> f =
      rnndrop::cell_forward<noisy_state>(i_pre, f_pre, g_pre, o_pre, noise, c_prev, h_prev);
  const rnndrop::CellBackward<T> b =
      rnndrop::cell_backward<noisy_state>(f.i, f.f, f.g, f.o, noise, c_prev, f.c, dh, dc);
  const T forward_values[] = {f.i, f.f, f.g, f.o, f.c, f.h};
  const T backward_values[] = {b.di_pre, b.df_pre, b.dg_pre, b.do_pre, b.dc_prev, b.dh_prev};
  for (int k = 0; k < 6; ++k) forward[k] = forward_values[k];
  for (int k = 0; k < 6; ++k) backward[k] = backward_values[k];
}

extern "C" {
void cell_float64(const CellInputs<double>* in, double* forward, double* backward) {
  cell<false, true>(in, forward, backward);
}
void cell_float32(const CellInputs<float>* in, float* forward, float* backward) {
  cell<false, true>(in, forward, backward);
}
void noisy_cell_float64(const CellInputs<double>* in, double* forward, double* backward) {
  cell<true, true>(in, forward, backward);
}
void noisy_cell_float32(const CellInputs<float>* in, float* forward, float* backward) {
  cell<true, true>(in, forward, backward);
}
void noiseless_cell_float64(const CellInputs<double>* in, double* forward, double* backward) {
  cell<true, false>(in, forward, backward);
}
void noiseless_cell_float32(const CellInputs<float>* in, float* forward, float* backward) {
  cell<true, false>(in, forward, backward);
}

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

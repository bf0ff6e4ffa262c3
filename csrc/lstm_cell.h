// The only cell maths in this project: forward and backward of ONE element of one LSTM cell.
//
// Pure functions of numbers, no pointers, no types but acc_t: CPU and CUDA kernels load, call these and store.
// Masks on x and h are applied before (they are inputs of the GEMM); m_g, on the candidate, is applied here.
#pragma once

#include "activations.h"

namespace rnndrop {

// i = sigmoid(i_pre)    f = sigmoid(f_pre)    g = tanh(g_pre)    o = sigmoid(o_pre)
// c = f * c_prev + i * (m_g * g)                        m_g: Semeniuta et al. 2016
// h = o * tanh(c)
template <class acc_t>
struct CellForward {
  acc_t i, f, g, o, c, h;
};

template <class acc_t>
HOST_DEVICE CellForward<acc_t> cell_forward(acc_t i_pre, acc_t f_pre, acc_t g_pre, acc_t o_pre, acc_t m_g,
                                            acc_t c_prev) {
  const acc_t i = sigmoid(i_pre);
  const acc_t f = sigmoid(f_pre);
  const acc_t g = tanh(g_pre);
  const acc_t o = sigmoid(o_pre);
  const acc_t c = f * c_prev + i * (m_g * g);
  const acc_t h = o * tanh(c);
  return {i, f, g, o, c, h};
}

// dX is dL/dX. dh and dc are all that reaches h and c from above and from the step after.
template <class acc_t>
struct CellBackward {
  acc_t di_pre, df_pre, dg_pre, do_pre, dc_prev;
};

template <class acc_t>
HOST_DEVICE CellBackward<acc_t> cell_backward(acc_t i, acc_t f, acc_t g, acc_t o, acc_t m_g, acc_t c_prev, acc_t c,
                                              acc_t dh, acc_t dc) {
  const acc_t tanh_c = tanh(c);
  const acc_t do_ = dh * tanh_c;
  const acc_t dc_total = dc + dh * o * (1 - tanh_c * tanh_c);
  const acc_t di = dc_total * (m_g * g);
  const acc_t df = dc_total * c_prev;
  const acc_t dg = dc_total * i * m_g;
  const acc_t di_pre = di * i * (1 - i);
  const acc_t df_pre = df * f * (1 - f);
  const acc_t dg_pre = dg * (1 - g * g);
  const acc_t do_pre = do_ * o * (1 - o);
  const acc_t dc_prev = dc_total * f;
  return {di_pre, df_pre, dg_pre, do_pre, dc_prev};
}

}  // namespace rnndrop

// The only cell maths in this project: forward and backward of ONE element of one LSTM cell.
//
// Pure functions of numbers, no pointers, no types but acc_t: CPU and CUDA kernels load, call these and store.
// Masks on x and h are applied before (they are inputs of the GEMM); all other noise is applied here.
#pragma once

#include "activations.h"

namespace rnndrop {

// The noise of one element, none until it is set. Without noise on the state (noisy_state = false below) only m_g
// counts.
template <class acc_t>
struct CellNoise {
  acc_t m_g = 1;           // on the candidate: Semeniuta et al. 2016
  acc_t m_c = 1;           // on the cell state: RNNDrop, Moon et al. 2015
  acc_t z_c = 0, z_h = 0;  // how much of c and h stays as it was: zoneout, Krueger et al. 2017
};

// i = sigmoid(i_pre)    f = sigmoid(f_pre)    g = tanh(g_pre)    o = sigmoid(o_pre)
// c_new = m_c * (f * c_prev + i * (m_g * g))    h_new = o * tanh(c_new)
// c = z_c * c_prev + (1 - z_c) * c_new          h = z_h * h_prev + (1 - z_h) * h_new
template <class acc_t>
struct CellForward {
  acc_t i, f, g, o, c, h;
};

template <class acc_t>
HOST_DEVICE acc_t zoneout(acc_t z, acc_t prev, acc_t now) {
  return z * prev + (1 - z) * now;
}

template <bool noisy_state, class acc_t>
HOST_DEVICE acc_t new_cell_state(acc_t i, acc_t f, acc_t g, const CellNoise<acc_t>& noise, acc_t c_prev) {
  const acc_t c_new = f * c_prev + i * (noise.m_g * g);
  return noisy_state ? noise.m_c * c_new : c_new;
}

template <bool noisy_state, class acc_t>
HOST_DEVICE CellForward<acc_t> cell_forward(acc_t i_pre, acc_t f_pre, acc_t g_pre, acc_t o_pre,
                                            const CellNoise<acc_t>& noise, acc_t c_prev, acc_t h_prev) {
  const acc_t i = sigmoid(i_pre);
  const acc_t f = sigmoid(f_pre);
  const acc_t g = tanh(g_pre);
  const acc_t o = sigmoid(o_pre);
  const acc_t c_new = new_cell_state<noisy_state>(i, f, g, noise, c_prev);
  const acc_t h_new = o * tanh(c_new);
  const acc_t c = noisy_state ? zoneout(noise.z_c, c_prev, c_new) : c_new;
  const acc_t h = noisy_state ? zoneout(noise.z_h, h_prev, h_new) : h_new;
  return {i, f, g, o, c, h};
}

// dX is dL/dX. dh and dc are all that reaches h and c from above and from the step after; dh_prev is what zoneout hands
// to h_prev, 0 without noise on the state.
template <class acc_t>
struct CellBackward {
  acc_t di_pre, df_pre, dg_pre, do_pre, dc_prev, dh_prev;
};

// c is read only without noise on the state: with it c_new is computed anew, since c_t is not c_new.
template <bool noisy_state, class acc_t>
HOST_DEVICE CellBackward<acc_t> cell_backward(acc_t i, acc_t f, acc_t g, acc_t o, const CellNoise<acc_t>& noise,
                                              acc_t c_prev, acc_t c, acc_t dh, acc_t dc) {
  const acc_t c_new = noisy_state ? new_cell_state<noisy_state>(i, f, g, noise, c_prev) : c;
  const acc_t tanh_c = tanh(c_new);
  const acc_t dh_new = noisy_state ? (1 - noise.z_h) * dh : dh;
  const acc_t do_ = dh_new * tanh_c;
  const acc_t dc_new = (noisy_state ? (1 - noise.z_c) * dc : dc) + dh_new * o * (1 - tanh_c * tanh_c);
  const acc_t dc_sum = noisy_state ? noise.m_c * dc_new : dc_new;  // dL/d(f * c_prev + i * (m_g * g))
  const acc_t di = dc_sum * (noise.m_g * g);
  const acc_t df = dc_sum * c_prev;
  const acc_t dg = dc_sum * i * noise.m_g;
  const acc_t di_pre = di * i * (1 - i);
  const acc_t df_pre = df * f * (1 - f);
  const acc_t dg_pre = dg * (1 - g * g);
  const acc_t do_pre = do_ * o * (1 - o);
  const acc_t dc_prev = noisy_state ? dc_sum * f + noise.z_c * dc : dc_sum * f;
  const acc_t dh_prev = noisy_state ? noise.z_h * dh : acc_t(0);
  return {di_pre, df_pre, dg_pre, do_pre, dc_prev, dh_prev};
}

}  // namespace rnndrop

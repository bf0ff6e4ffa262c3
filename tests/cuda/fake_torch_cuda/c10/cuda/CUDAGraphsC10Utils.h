#pragma once
#include "fake_cublas.h"

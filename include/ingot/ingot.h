#ifndef INGOT_H
#define INGOT_H
#endif

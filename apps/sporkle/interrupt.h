// Ctrl-C (SIGINT) and SIGTERM as a question instead of an end: long commands ask between two pieces of work.
#pragma once

namespace sporkle::app {

// From now on the first of these signals only makes interrupted() true; a second one ends the process as usual.
void catch_interrupts();
bool interrupted();

}  // namespace sporkle::app

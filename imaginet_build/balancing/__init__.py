"""Which images are kept, in which split and under which law: the balancer's programme and its plan."""

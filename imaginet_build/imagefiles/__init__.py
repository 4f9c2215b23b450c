"""What image files hold besides the picture, and how their bytes become one."""

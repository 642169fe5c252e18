"""What is measured on images, models and trainings."""

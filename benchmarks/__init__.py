"""Measurements that issues and documents quote; each script runs by itself."""
